"""The rows of a table as examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmembed.datasets import DatasetCard, ExampleRows
from mmembed.errors import InputError
from mmembed.tables.examples import TableRows
from mmembed.tables.opening import open_table
from mmembed.types import ContrastiveExample, MultimodalInput

CARD = DatasetCard("pairs", "qa", "text", "text", revision="r1", license="MIT")


def parse(row: dict[str, Any], where: str) -> ContrastiveExample:
    if "q" not in row:
        raise InputError("empty", f"{where}: no q")
    query, document = MultimodalInput.of(row["q"]), MultimodalInput.of("d")
    return ContrastiveExample(query, (document,), query_id=row.get("id", ""))


@pytest.fixture
def rows(tmp_path: Path) -> TableRows:
    path = tmp_path / "a.jsonl"
    path.write_text('{"q": "x"}\n\n{"p": 1}\n{"q": \n{"q": "y", "id": "own"}\n')
    return TableRows(CARD, open_table([path]), parse)


def test_a_row_is_what_parse_makes_of_it_with_a_name(rows: TableRows) -> None:
    assert isinstance(rows, ExampleRows)
    assert (rows.name, rows.task, rows.revision, rows.license) == ("pairs", "qa", "r1", "MIT")
    assert (len(rows), rows.files[0].name) == (4, "a.jsonl")
    assert [rows[index].query_id for index in (0, 3)] == ["pairs/0", "own"]
    assert rows.where(3) == "a.jsonl, line 5"


def test_bad_rows_name_their_line_and_leave_the_others_alone(rows: TableRows) -> None:
    taken = rows.take([3, 1, 0, 2, 3])
    assert [taken[place] for place in (0, 2, 4)] == [rows[3], rows[0], rows[3]]
    errors = [taken[1], taken[3]]
    assert all(isinstance(error, InputError) for error in errors)
    assert "a.jsonl, line 3: no q" in str(errors[0])
    assert "a.jsonl, line 4: not JSON" in str(errors[1])


def test_ids_and_siblings_are_there_only_when_given(rows: TableRows) -> None:
    assert not hasattr(rows, "document_ids") and not hasattr(rows, "sibling_key")
    named = TableRows(
        CARD,
        rows.table,
        parse,
        document_ids=lambda row: (row["q"],),
        sibling_key=lambda row: row["q"] * 2,
    )
    assert (named.document_ids(3), named.sibling_key(3)) == (("y",), "yy")
