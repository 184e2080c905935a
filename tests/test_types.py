"""What users hand over: every odd value is an `InputError`, at once, and harms no other item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.errors import InputError
from mmembed.types import Image, MultimodalInput, Page, Text, Video

LOOP: list[Any] = []
LOOP.append(LOOP)
DEEP: Any = "a"
for _ in range(5000):
    DEEP = [DEEP]


def parse(item: Any) -> MultimodalInput:
    return MultimodalInput.of(item)


def code(item: Any) -> str:
    with pytest.raises(InputError) as caught:
        parse(item)
    return caught.value.code


@pytest.mark.parametrize("item", [LOOP, DEEP], ids=["in itself", "5000 levels"])
def test_a_bottomless_list_is_refused(item: Any) -> None:
    assert code(item) == "invalid_type"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -3),
        ("max_tokens", "4"),
        ("max_tokens", 4.5),
        ("max_tokens", True),
        ("max_tokens", 10**400),
        ("max_tokens", [4]),
        ("num_frames", 2.5),
        ("fps", "2"),
        ("fps", [1]),
        ("fps", True),
        ("start", 10**400),
    ],
)
def test_an_option_of_a_wrong_type_is_refused(name: str, value: Any) -> None:
    assert code({"video": "a.mp4", name: value}) == "invalid_type"
    assert code(Video(Path("a.mp4"), **{name: value})) == "invalid_type"


def test_numbers_of_numpy_are_numbers() -> None:
    item = parse({"video": "a.mp4", "fps": np.float32(2), "max_tokens": np.uint8(4)})
    assert item.parts == (Video(Path("a.mp4"), fps=2.0, max_tokens=4),)
    (part,) = item.parts
    assert isinstance(part, Video)
    assert (type(part.fps), type(part.max_tokens)) == (float, int)  # what a decode process takes


@pytest.mark.parametrize(
    "item",
    [
        Text(5),  # type: ignore[arg-type]
        Video(["a.png", "b.png"]),  # type: ignore[arg-type]
        Video("a.mp4"),  # type: ignore[arg-type]
        Video(np.zeros((2, 8, 8, 3), np.uint8)),  # type: ignore[arg-type]
        Page("a.pdf"),  # type: ignore[arg-type]
        Page((Path("a.pdf"),)),  # type: ignore[arg-type]
        Page(Path("a.pdf"), pages=3),  # type: ignore[arg-type]
        Page(Path("a.pdf"), password=["x"]),  # type: ignore[arg-type]
        MultimodalInput(("text",)),  # type: ignore[arg-type]
        MultimodalInput((Text("a"),), instruction=3),  # type: ignore[arg-type]
    ],
)
def test_a_part_of_the_callers_own_making_is_checked_too(item: Any) -> None:
    assert code(item) == "invalid_type"


def test_an_item_without_parts_is_empty() -> None:
    assert code(MultimodalInput(())) == "empty"


@pytest.mark.parametrize(
    ("pages", "expected"),
    [(3, "3"), (np.int64(3), "3"), ([1, 4], "1,4"), (range(1, 4), "1,2,3"), (["1-2", 5], "1-2,5")],
)
def test_pages_are_numbers_lists_or_text(pages: Any, expected: str) -> None:
    assert parse({"pdf": "a.pdf", "pages": pages}).parts == (Page(Path("a.pdf"), pages=expected),)


@pytest.mark.parametrize("pages", [True, 3.5, b"3", [], {"a": 1}, [True], 10**400])
def test_pages_that_are_no_numbers_are_refused(pages: Any) -> None:
    assert code({"pdf": "a.pdf", "pages": pages}) == "invalid_type"


def test_a_page_number_stands_beside_its_file() -> None:
    for number in (3, np.int64(3)):
        assert parse({"pdf": "a.pdf", "page": number}).parts == (Page(Path("a.pdf"), pages="3"),)
    assert code({"pdf": "a.pdf", "page": True}) == "invalid_type"
    assert code({"image": "a.png", "page": 3}) == "invalid_type"


def test_a_finished_part_under_a_key_is_of_its_kind_and_takes_no_options() -> None:
    picture = Image(Path("a.png"))
    assert parse({"image": picture}).parts == (picture,)
    assert code({"image": picture, "max_tokens": 4}) == "invalid_type"
    assert code({"image": Page(Path("a.pdf"))}) == "invalid_type"


def test_a_string_of_numpy_is_a_path_under_a_media_key() -> None:
    assert parse({"image": np.str_("a.png")}).parts == (Image(Path("a.png")),)


def test_a_frame_of_a_wrong_type_is_named_inside_its_item() -> None:
    with pytest.raises(InputError) as caught:
        parse({"video": ["a.png", 5]})
    assert caught.value.at(3).index == (3, "frames", 1)


def test_bytes_of_a_data_uri_in_percent_spelling_arrive_whole() -> None:
    item = parse({"image": "data:image/png,%89PNG%0D%0A"})
    assert item.parts == (Image(b"\x89PNG\r\n"),)


@pytest.mark.parametrize(
    ("uri", "expected"), [("file://[x", "not_found"), ("file://other/a.png", "forbidden_url")]
)
def test_a_file_uri_that_names_no_local_file_is_refused(uri: str, expected: str) -> None:
    assert code({"image": uri}) == expected


def test_several_system_messages_are_one_instruction() -> None:
    chat = [{"role": "system", "content": text} for text in ("Find ", "it.")]
    item = parse([*chat, {"role": "user", "content": "q"}])
    assert item == MultimodalInput((Text("q"),), instruction="Find it.")


def test_an_instruction_inside_a_content_entry_is_refused() -> None:
    assert code([{"type": "text", "text": "x", "instruction": "y"}]) == "invalid_type"
