"""A row gives back the item that was encoded for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mmembed.inputs.sandbox import MediaDecoder
from mmembed.search.row_items import row_item
from mmembed.search.segments import Segmentation, cut_file
from tests import media_files


@pytest.fixture(scope="module")
def decoder() -> Iterator[MediaDecoder]:
    with MediaDecoder() as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    (folder / "photo.png").write_bytes(media_files.encode_image(media_files.photo(seed=1)))
    (folder / "clip.mp4").write_bytes(media_files.video(45, fps=15))
    (folder / "paper.pdf").write_bytes(media_files.pdf(3))
    (folder / "note.md").write_text("# Title\n\n" + "Some words here. " * 20, encoding="utf-8")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("instruction", [None, "Find what is shown."])
@pytest.mark.parametrize(
    ("name", "longest", "count"),
    [
        ("photo.png", 9, 1),
        ("clip.mp4", 9, 1),
        ("clip.mp4", 1, 3),
        ("paper.pdf", 9, 3),
        ("note.md", 9, 5),
    ],
)
def test_every_item_of_a_file_is_built_again(
    files: dict[str, Path],
    decoder: MediaDecoder,
    name: str,
    longest: int,
    count: int,
    instruction: str | None,
) -> None:
    segmentation = Segmentation(
        passage_chars=90, window_seconds=1.0, max_clip_seconds=longest, instruction=instruction
    )
    segments = cut_file(files[name], segmentation, decoder)
    assert len(segments) == count
    for segment in segments:
        row = replace(segment.row, items_in_file=len(segments))
        assert row_item(row, instruction=instruction) == segment.item
