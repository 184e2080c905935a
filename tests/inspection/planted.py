"""A file of rows with one fault of every kind, each at a known line and field."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from data_adapters.emoji_drawing import draw_picture
from data_adapters.emoji_source import emoji_of_split
from mmembed.types import ContrastiveExample, MultimodalInput

__all__ = ["Fault", "InterruptedRows", "emoji_picture", "png", "recompressed", "write_planted"]

LONG = (
    "the quick brown fox jumps over the lazy dog while seven quiet owls watch from an old oak tree "
    "beside the river and nobody in the village knows why they came there last winter"
)


@dataclass(frozen=True, order=True)
class Fault:
    line: int
    kind: str
    field: str


def emoji_picture(number: int, size: int = 96) -> np.ndarray:
    """One of a thousand pictures; those near each other in the alphabet may look alike."""
    return draw_picture("noto", emoji_of_split("all")[number].id, size=size)


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def recompressed(picture: np.ndarray, quality: int = 60, scale: float = 0.7) -> np.ndarray:
    image = PILImage.fromarray(picture)
    size = (round(image.width * scale), round(image.height * scale))
    buffer = io.BytesIO()
    image.resize(size, PILImage.Resampling.LANCZOS).save(buffer, "JPEG", quality=quality)
    with PILImage.open(buffer) as opened:
        return np.asarray(opened.convert("RGB"))


def write_planted(folder: Path) -> tuple[Path, set[Fault]]:
    """The file, and what has to be found in it: nothing more, nothing less."""
    media = folder / "media"
    media.mkdir(parents=True)
    for number, emoji in enumerate((40, 400, 800, 1000)):
        (media / f"{number}.png").write_bytes(png(emoji_picture(emoji)))
    (media / "copy.png").write_bytes(png(recompressed(emoji_picture(400))))
    (media / "cut.png").write_bytes(png(emoji_picture(1100))[:-200])
    lines: list[bytes] = []
    faults: set[Fault] = set()

    def row(*planted: tuple[str, str], **fields: Any) -> None:
        fields = {"id": f"r{len(lines) + 1}", **fields}
        lines.append(json.dumps(fields, ensure_ascii=False).encode())
        faults.update(Fault(len(lines), kind, field) for kind, field in planted)

    def picture(name: str) -> dict[str, str]:
        return {"image": f"media/{name}.png"}

    for number, word in enumerate(("apple", "harbour", "violin", "glacier")):
        row(query=f"a sound {word}", positives=[picture(str(number))], negatives=[f"no {word}"])
    row(("unreadable", ""), query="a wrong field", positves=["typo"])
    lines.append(b'{"id": "r6", "query": "not utf-8 \xff", "positives": ["x"]}')
    faults.add(Fault(6, "unreadable", ""))
    row(("missing", "positives[0], image"), query="a missing file", positives=[picture("none")])
    row(
        ("corrupt", "negatives[0], image"),
        query="cut",
        positives=["p8"],
        negatives=[picture("cut")],
    )
    row(("duplicate_id", "id"), id="r2", query="another row of that id", positives=["p9"])
    row(("empty", "positives[0]"), query="an empty text", positives=["  "])
    row(
        ("positive_in_negatives", "positives[0]"),
        query="contradiction",
        positives=["the same"],
        negatives=["something else", "the same"],
    )
    row(("query_is_positive", "positives[0]"), query="an echo", positives=["an echo"])
    row(query="one of two equal pairs", positives=["p13"])
    row(
        ("duplicate", ""),
        ("repeated_query", "query"),
        ("repeated_document", "positives"),
        query="one of two equal pairs",
        positives=["p13"],
    )
    row(query="labelled", positives=["p15"], label="good")
    row(
        ("conflict", "label"),
        ("repeated_query", "query"),
        query="labelled",
        positives=["p16"],
        label="bad",
    )
    row(query=LONG, positives=["p17"])
    row(("near_text", "query"), query=LONG.replace("seven", "nine") + "!", positives=["p18"])
    row(("near_picture", "positives[0]"), query="a copy", positives=[picture("copy")])
    row(("encoding", "query"), query="a caf\u00c3\u00a9 in Z\u00c3\u00bcrich", positives=["p20"])
    row(("encoding", "positives[0]"), query="lost letters", positives=["na\ufffdve"])
    row(
        ("address", "positives[0], image"),
        query="far away",
        positives=[{"image": "https://example.org/a.png"}],
    )
    path = folder / "planted.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path, faults


class InterruptedRows:
    """Rows of which one is a Ctrl-C; row 1 repeats row 0."""

    name = "interrupted"
    task = "retrieval"
    revision = "1"
    license = "CC0-1.0"

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> ContrastiveExample:
        if index == 700:
            raise KeyboardInterrupt
        query = MultimodalInput.of(f"query {index // 2 if index < 2 else index}")
        return ContrastiveExample(query, (query,), query_id="same" if index < 2 else "")
