"""Rows as lines of JSON, and what full-text search reads of them."""

from __future__ import annotations

import pytest

from mmembed.errors import StoreError
from mmembed.search.rows import Box, Row, dump_row, parse_row, searchable_text


@pytest.mark.parametrize(
    "row",
    [
        Row(id="a", path="/a", kind="image"),
        Row(
            id='/p\u00e4th "q".pdf#page=2',
            path='/p\u00e4th "q".pdf',
            kind="pdf",
            page=2,
            text="one\ntwo",
            boxes=(Box(0.0, 0.1, 0.5, 0.2, 0, 3), Box(0.0, 0.3, 0.5, 0.4, 4, 7)),
        ),
    ],
)
def test_a_row_comes_back_from_its_line(row: Row) -> None:
    line = dump_row(row)
    assert b"\n" not in line
    assert parse_row(line) == row
    assert all(isinstance(box, Box) for box in parse_row(line).boxes)


def test_a_row_of_a_later_version_is_refused() -> None:
    with pytest.raises(StoreError, match=r"'colour'.*update mmembed"):
        parse_row(b'{"id": "a", "path": "/a", "kind": "image", "colour": "red"}')


def test_words_of_the_name_and_the_text_are_searchable() -> None:
    row = Row(id="a", path="/x/annual_report-2026.PDF", kind="pdf", text="Turnover grew")
    assert searchable_text(row).split() == ["annual", "report", "2026", "PDF", "Turnover", "grew"]
    assert row.suffix == "pdf"
