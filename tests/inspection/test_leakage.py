"""What of evaluation items counts as leaked, and what does not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inspection.columns import HashColumn
from mmembed.inspection.leakage import EvaluationItem, LeakageIndex, media_hash
from mmembed.inspection.media_facts import MediaReader
from mmembed.inspection.near_pictures import PictureColumn
from mmembed.types import Image, MultimodalInput
from tests.inspection.planted import emoji_picture, png, recompressed

WORDS = [f"word{number}" for number in range(40)]


def index_of(*items: tuple[str, str], media: MediaReader | None = None) -> LeakageIndex:
    made = [
        EvaluationItem(f"item {number}", "query" if side == "query" else "document", of(text))
        for number, (side, text) in enumerate(items)
    ]
    return LeakageIndex(made, media or MediaReader(None))


def of(text: str) -> MultimodalInput:
    return MultimodalInput.of(text)


def some(start: int, stop: int) -> str:
    return " ".join(WORDS[start:stop])


def found(index: LeakageIndex, text: str, side: str = "query") -> int | None:
    match = index.find_text(of(text), side)
    return None if match is None else match.item


@pytest.mark.parametrize("side", ["query", "document"])
def test_thirteen_words_in_a_row_are_a_leak_and_twelve_are_not(side: str) -> None:
    index = index_of(("query", "something else"), (side, some(0, 30)))
    assert found(index, f"before {some(10, 23)} behind", "positives[0]") == 1
    assert found(index, f"before {some(10, 22)} behind", "positives[0]") is None
    match = index.find_text(of(f"before {some(10, 25)}"), "query")
    assert match is not None and match.words == some(10, 23)


def test_of_a_text_of_eight_to_twelve_words_all_must_be_there_in_a_row() -> None:
    index = index_of(("document", some(0, 9)))
    assert found(index, f"and then {some(0, 9)} too") == 0
    assert found(index, f"and then {some(0, 8)} too") is None
    assert found(index, f"{some(0, 4)} x {some(4, 9)}") is None


def test_a_short_text_must_be_the_whole_text() -> None:
    index = index_of(("query", "What is a leak?"))
    assert found(index, "what is a LEAK") == 0
    assert found(index, "what is a leak in a boat") is None


def test_names_of_classes_are_no_evidence() -> None:
    index = index_of(("document", "tabby cat"), ("query", "red fox"))
    assert found(index, "tabby cat", "positives[0]") is None
    assert found(index, "tabby cat") is None
    assert found(index, "red fox", "positives[0]") is None
    assert found(index, "red fox") == 1


def test_the_wording_of_prompts_is_no_evidence() -> None:
    def questions(count: int) -> Iterable[tuple[str, str]]:
        return [("query", f"{some(0, 20)} object {number}") for number in range(count)]

    text = f"{some(0, 20)} my own"
    assert found(index_of(*questions(10)), text) == 0
    assert found(index_of(*questions(11)), text) is None
    assert found(index_of(*([("query", some(0, 20))] * 30)), text) == 0  # one text, many times


def test_a_short_question_beside_a_picture_is_no_evidence() -> None:
    data = png(emoji_picture(40))
    asked = MultimodalInput.of({"image": data, "text": "what is this exactly"})
    index = LeakageIndex([EvaluationItem("x", "query", asked)], MediaReader(None))
    assert found(index, "what is this exactly") is None
    other = index_of(("query", "what is this exactly"))
    assert other.find_text(asked, "query") is None


def test_an_index_of_nothing_finds_nothing() -> None:
    index = LeakageIndex([], MediaReader(None))
    assert len(index) == 0 and found(index, some(0, 30)) is None
    assert not list(index.find_media(HashColumn()))
    assert not list(index.find_pictures(PictureColumn()))


def test_pictures_that_look_alike_and_files_of_the_same_bytes_are_found(tmp_path: Path) -> None:
    path = tmp_path / "held.png"
    path.write_bytes(png(emoji_picture(800)))
    held = EvaluationItem("held", "document", MultimodalInput((Image(path),)))
    with MediaDecoder() as decoder:
        media = MediaReader(decoder)
        index = LeakageIndex([held], media)
        parts = [Image(png(recompressed(emoji_picture(800)))), Image(png(emoji_picture(40)))]
        facts = media.read(parts)
    pictures = PictureColumn()
    for owner, each in enumerate(facts, start=7):
        pictures.add(each.signatures[0], owner)
    assert [(owner, item) for owner, item, _ in index.find_pictures(pictures)] == [(7, 0)]
    rows = HashColumn()
    for owner, part in enumerate([parts[0], Image(path.read_bytes())]):
        rows.add(media_hash(part), owner)
    assert list(index.find_media(rows)) == [(1, 0)]


def test_evaluation_media_that_cannot_be_opened_are_counted(tmp_path: Path) -> None:
    missing = MultimodalInput((Image(tmp_path / "none.png"),))
    index = LeakageIndex([EvaluationItem("x", "query", missing)], MediaReader(None))
    assert index.num_unread == 1
