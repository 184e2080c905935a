"""Equal content runs once, under whatever name; different content never counts as equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from mmembed.encoder.duplicates import unique_items
from mmembed.encoder.embedder import Embedder
from mmembed.errors import InputError
from mmembed.types import MultimodalInput, Page, Video
from tests.encoder.forwards import counted


def noise(seed: int, mode: str = "RGB") -> PILImage.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
    return PILImage.fromarray(pixels).convert(mode)


def groups(*items: object) -> list[list[int]]:
    return [indices for _, indices in unique_items([MultimodalInput.of(item) for item in items])]


@pytest.fixture(scope="module")
def embedder(tiny_checkpoint):
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as loaded:
        yield loaded


def test_a_hundred_equal_pictures_under_two_names_are_encoded_once(embedder, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        noise(1).save(path)
    with counted(embedder) as forwards:
        vectors, report = embedder.encode(paths * 50, return_report=True)
    assert len(forwards) == 1
    assert report.num_encoded == 1
    assert np.array_equal(vectors, np.repeat(vectors[:1], 100, axis=0))


def test_equal_pictures_in_memory_are_encoded_once(embedder):
    with counted(embedder) as forwards:
        embedder.encode([noise(2) for _ in range(10)] + [np.asarray(noise(2))] * 3)
        _, report = embedder.encode([noise(2), noise(3), noise(2)], return_report=True)
    assert report.num_encoded == 2
    assert len(forwards) <= 4


def test_pictures_of_one_shape_are_told_apart():
    assert groups(noise(1), noise(2), noise(1)) == [[0, 2], [1]]
    assert groups(noise(1, "L"), noise(1, "RGB")) == [[0], [1]]
    arrays = [np.asarray(noise(seed)) for seed in (1, 2, 1)]
    assert groups(*arrays, arrays[1].copy()) == [[0, 2], [1, 3]]


def test_pictures_that_share_their_middle_row_are_told_apart():
    one, two = np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9, 3), np.uint8)
    two[0, 0, 0] = 1
    assert groups(one, two, one.copy()) == [[0, 2], [1]]
    assert groups(*map(PILImage.fromarray, (one, two, one))) == [[0, 2], [1]]


def test_files_of_one_size_are_told_apart(tmp_path):
    paths = []
    for name, content in (("a", b"x" * 9), ("b", b"y" * 9), ("c", b"x" * 9), ("d", b"x" * 8)):
        paths.append(tmp_path / f"{name}.png")
        paths[-1].write_bytes(content)
    assert groups(*paths) == [[0, 2], [1], [3]]


def test_options_instruction_password_and_kind_keep_equal_content_apart(tmp_path):
    one, two = tmp_path / "a", tmp_path / "b"
    for path in (one, two):
        path.write_bytes(b"same")
    apart = [
        {"image": one},
        {"image": two, "max_tokens": 4},
        {"image": two, "instruction": "x"},
        {"video": one},
        {"video": one, "fps": 2.0},
        {"video": one, "start": 1.0},
        Video((two,)),
        {"pdf": one},
        Page(two, password="x"),
        {"pdf": two, "pages": "1"},
    ]
    assert groups(*apart, {"image": two}) == [[0, 10], *[[n] for n in range(1, 10)]]


def test_frames_of_equal_content_make_equal_clips(tmp_path):
    one, two = tmp_path / "a.png", tmp_path / "b.png"
    for path in (one, two):
        noise(1).save(path)
    assert groups(Video((one, two)), Video((two, one)), Video((one,))) == [[0, 1], [2]]


def test_files_that_cannot_be_opened_count_by_name(tmp_path):
    missing = [tmp_path / "a.png", tmp_path / "b.png"]
    assert groups(*missing, missing[0], tmp_path, Path("a\0b.png")) == [[0, 2], [1], [3], [4]]


def test_a_file_that_is_not_decoded_yet_is_left_to_the_threads(tmp_path):
    noise(1).save(tmp_path / "a.png")
    with PILImage.open(tmp_path / "a.png") as first, PILImage.open(tmp_path / "a.png") as second:
        assert groups(first, second, first) == [[0, 2], [1]]
        assert first.tile, "nothing was decoded"


def test_a_forbidden_file_equals_nothing(tmp_path):
    def digest(path: Path) -> str:
        if path.name == "b.png":
            raise InputError("forbidden_path", "no")
        return "same"

    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"x")
    items = [MultimodalInput.of(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    assert [indices for _, indices in unique_items(items, digest=digest)] == [[0, 2], [1]]


def test_each_of_two_equal_bad_files_fails_under_its_own_name(embedder, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture at all")
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    _, report = embedder.encode(paths, on_error="null", return_report=True)
    assert [(error.index, error.source) for error in report.errors] == [(0, "a.png"), (1, "b.png")]
