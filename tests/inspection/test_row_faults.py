"""Faults within one row: empty and damaged texts, and items that are equal."""

from __future__ import annotations

import pytest

from mmembed.inspection.row_faults import encoding_damage, equal_items, text_faults
from mmembed.types import ContrastiveExample, MultimodalInput


@pytest.mark.parametrize(
    "text",
    [
        "plain words",
        "naïve café in Zürich \u2013 “quoted”, €5, ½, 20 °C, ©",
        "苹果 りんご 사과 яблоко تفاحة सेब 😀",
        "Übermäßig große Äpfel, ÀÉÎÕÜ",
        "tabs\tand\nlines\r\n",
    ],
)
def test_sound_texts_are_not_reported(text: str) -> None:
    assert encoding_damage(text) == ""


@pytest.mark.parametrize(
    "text", ["café in Zürich", "“quoted” \u2013 it\u2019s", "яблоко", "苹果", "😀 ok"]
)
def test_utf8_that_was_read_as_another_encoding_is_damage_and_its_meaning_is_told(
    text: str,
) -> None:
    data = text.encode()
    damaged = "".join(bytes([byte]).decode("cp1252", errors="ignore") or chr(byte) for byte in data)
    message = encoding_damage(damaged)
    first = next(letter for letter in text if ord(letter) > 127)
    assert "UTF-8" in message and first in message


def test_lost_letters_and_control_characters_are_damage() -> None:
    assert "2 replacement" in encoding_damage("a \ufffd and \ufffd")
    assert "U+0000" in encoding_damage("a\x00b")


def test_one_odd_run_in_a_long_text_of_another_script_is_not_damage() -> None:
    assert encoding_damage("яблоко " * 20 + "Ã©") == ""


@pytest.mark.parametrize(("item", "empty"), [("", True), (" \n", True), ("x", False)])
def test_a_text_without_letters_is_empty(item: str, empty: bool) -> None:
    found = [kind for kind, _ in text_faults("query", MultimodalInput.of(item))]
    assert found == (["empty"] if empty else [])


def test_an_empty_text_beside_a_picture_is_none() -> None:
    item = MultimodalInput.of({"image": b"\x89PNG\r\n\x1a\n", "text": ""})
    assert not list(text_faults("query", item))


def test_equal_items_of_a_row_are_named() -> None:
    texts = [MultimodalInput.of(text) for text in "abcd"]
    example = ContrastiveExample(texts[0], tuple(texts[1:3]), (texts[3],))
    assert list(equal_items(example, [1, 2, 1, 2])) == [
        ("positive_in_negatives", "positives[0]", "equal to negatives[0]"),
        ("query_is_positive", "positives[1]", "equal to the query"),
    ]
    assert not list(equal_items(example, [None, None, 3, None]))


@pytest.mark.parametrize(
    ("text", "is_media"),
    [
        ("images/cat.jpg", True),
        ("C:\\clips\\a.MP4", True),
        ('{"image": "cat.jpg"}', True),
        ("a photo of cat.jpg", False),
        ("{braces", False),
        ('{"a": 1}', False),
        ("e.g.", False),
    ],
)
def test_a_text_that_is_the_name_of_a_medium_is_told(text: str, is_media: bool) -> None:
    found = [kind for kind, _ in text_faults("query", MultimodalInput.of([text]))]
    assert found == (["media_as_text"] if is_media else [])
