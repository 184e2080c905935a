"""A library of mixed files that is quick to make: few contents, made different by a few bytes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from mmembed.search.exact_index import ExactIndex
from mmembed.search.index import Index
from mmembed.search.opening import open_index
from tests import media_files

__all__ = ["make_library", "names", "opened", "picture", "write_content"]


def make_library(folder: Path, *, texts: int, pictures: int, documents: int, clips: int) -> int:
    """Files with unique content in folders of fifty; returns how many items they hold."""
    folder.mkdir()
    names = [
        *(f"note{number}.md" for number in range(texts)),
        *(f"picture{number}.png" for number in range(pictures)),
        *(f"paper{number}.pdf" for number in range(documents)),
        *(f"clip{number}.mp4" for number in range(clips)),
    ]
    random.Random(0).shuffle(names)
    paper = media_files.pdf(2) if documents else b""
    clip = media_files.video(8, size=(32, 32)) if clips else b""
    for number, name in enumerate(names):
        path = folder / f"part{number // 50}" / name
        path.parent.mkdir(exist_ok=True)
        write_content(path, number, paper, clip)
    return texts + pictures + 2 * documents + clips


def write_content(path: Path, number: int, paper: bytes = b"", clip: bytes = b"") -> Path:
    """A file that differs from those of other numbers."""
    if path.suffix == ".md":
        path.write_text(f"# Note {number}\n\nabout the number {number}\n")
    elif path.suffix == ".png":
        PILImage.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(path)
    elif path.suffix == ".pdf":
        path.write_bytes(paper + f"% {number}\n".encode())
    else:
        # a box that players pass over
        path.write_bytes(clip + (16).to_bytes(4) + b"free" + number.to_bytes(8))
    return path


def opened(engine: str, folder: Path, encoder: Any) -> Index:
    return open_index(
        f"{engine}:{folder}",
        fingerprint=encoder.fingerprint,
        dimension=encoder.embedding_dimension,
    )


def picture(path: Path, colour: tuple[int, int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.new("RGB", (8, 8), colour).save(path)
    return path


def names(tmp_path: Path) -> list[str]:
    """Of the files, sorted by path, in the index that the fixture `run` writes."""
    return [Path(row.id).name for row in ExactIndex(tmp_path / "index").rows()]
