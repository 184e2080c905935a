"""Ids name what a document says and shows, wherever its files lie."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from data_adapters.document_ids import document_id, document_ids
from mmembed.types import Image, MultimodalInput, Text, Url, Video


def _item(*parts: object, instruction: str | None = None) -> MultimodalInput:
    return MultimodalInput(parts, instruction)  # type: ignore[arg-type]


def test_equal_documents_have_one_id_whatever_their_instruction() -> None:
    assert document_id(_item(Text("cat"))) == document_id(_item(Text("cat"), instruction="Say."))
    assert document_id(_item(Image(b"ab"))) == document_id(_item(Image(b"ab")))


def test_a_file_is_named_by_its_path_below_the_folder_of_its_data() -> None:
    here = document_id(_item(Image(Path("/a/set/images/1.jpg"))), Path("/a/set"))
    assert here == document_id(_item(Image(Path("b/images/1.jpg"))), Path("b"))
    assert here == document_id(_item(Image(Path("images/1.jpg"))))
    assert here != document_id(_item(Image(Path("/a/set/images/1.jpg"))))
    assert here != document_id(_item(Image(Path("/a/set/images/2.jpg"))), Path("/a/set"))


def test_different_documents_have_different_ids() -> None:
    documents = (
        _item(Text("a.jpg")),
        _item(Image(Path("a.jpg"))),
        _item(Image(b"a.jpg")),
        _item(Image(Path("a.jpg"), max_tokens=4)),
        _item(Image(Path("a.jpg")), Text("")),
        _item(Video(Path("a.jpg"))),
        _item(Video((Path("a.jpg"), Path("b.jpg")))),
        _item(Video((Path("b.jpg"), Path("a.jpg")))),
        _item(Video(Path("a.jpg"), start=1.0)),
        _item(Image(Url("http://a.jpg"))),
        _item(Text("a"), Text(".jpg")),
        _item(Text("aText.jpg")),
    )
    assert len(set(document_ids(documents))) == len(documents)


@given(st.lists(st.text(), max_size=3), st.lists(st.text(), max_size=3))
def test_texts_do_not_run_together(one: list[str], other: list[str]) -> None:
    equal = document_id(_item(*map(Text, one))) == document_id(_item(*map(Text, other)))
    assert equal == (one == other)
