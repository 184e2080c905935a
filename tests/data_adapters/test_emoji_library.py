"""The folder that `mmembed demo --quickstart` shows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from data_adapters.emoji_library import EmojiLibrary, write_library
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.search.segments import Segmentation, cut_file

SMALL = {"pictures_per_group": 5, "scenes_per_film": 3, "pages_per_document": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    pytest.importorskip("av")
    pytest.importorskip("pymupdf")
    return tmp_path_factory.mktemp("library") / "emoji"


@pytest.fixture(scope="module")
def library(folder) -> EmojiLibrary:
    return write_library(folder, **SMALL)


def files_of(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


def test_every_file_is_described(library, folder):
    assert set(files_of(folder)) == {name.partition("#")[0] for name in library.content}
    assert sum(name.startswith("pictures/") for name in library.content) == 6 * 5


def test_the_same_arguments_give_the_same_bytes_and_dates(library, folder, tmp_path):
    again = write_library(tmp_path, **SMALL)
    assert again == library
    for name, path in files_of(folder).items():
        other = tmp_path / name
        assert (
            hashlib.sha256(path.read_bytes()).digest()
            == hashlib.sha256(other.read_bytes()).digest()
        ), name
        assert path.stat().st_mtime_ns == other.stat().st_mtime_ns


def test_films_are_cut_where_their_scenes_change(library, folder):
    segmentation = Segmentation(windows="scenes", max_clip_seconds=6)
    with MediaDecoder() as decoder:
        for path in (folder / "films").iterdir():
            scenes = [segment.row for segment in cut_file(path, segmentation, decoder)]
            starts = [scene.start_seconds for scene in scenes]
            assert starts == pytest.approx([0, 4, 8], abs=0.2)
            assert scenes[-1].duration_seconds == pytest.approx(12, abs=0.2)


def test_pages_have_the_words_that_describe_them(library, folder):
    with MediaDecoder() as decoder:
        for path in (folder / "documents").iterdir():
            pages = [segment.row for segment in cut_file(path, Segmentation(), decoder)]
            assert len(pages) == 2
            for page in pages:
                name = library.content[f"documents/{path.name}#{page.page}"]
                assert name in " ".join((page.text or "").split())


def test_questions_have_answers_of_every_kind(library):
    described = " | ".join(library.content.values())
    assert set(library.examples) == {"all", "image", "video", "pdf", "text"}
    for question in library.examples["video"]:
        assert question in library.content.values()
    for question in library.examples["pdf"]:
        assert question.removeprefix("a page about ") in described
    for question in library.examples["image"]:
        assert question in library.content.values()
    first = library.examples["all"][0]
    places = {name.partition("/")[0] for name, text in library.content.items() if first in text}
    assert places == {"pictures", "films", "documents", "notes"}
