"""A user's own table of PDF files, pages and queries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_adapters.documents.pdf_queries import PdfQueries
from mmembed.errors import InputError
from mmembed.types import Page


def rows_of(folder: Path, *rows: dict[str, Any]) -> PdfQueries:
    (folder / "a.pdf").write_bytes(b"%PDF-1.4")
    path = folder / "queries.jsonl"
    path.write_text("".join(json.dumps({"query": "q", **row}) + "\n" for row in rows))
    return PdfQueries(path)


@pytest.mark.parametrize(
    ("said", "pages"), [({"page": 3}, "3"), ({"pages": "2-5"}, "2-5"), ({"page": None}, None)]
)
def test_pages_have_either_name(tmp_path: Path, said: dict[str, Any], pages: str | None) -> None:
    (positive,) = rows_of(tmp_path, {"pdf": "a.pdf", **said})[0].positives
    assert positive.parts == (Page(tmp_path / "a.pdf", pages=pages),)


def test_a_row_without_a_file_is_named_and_the_others_stay(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, {"pdf": "a.pdf"}, {"file": "a.pdf"}, {"pdf": ""}, {"pdf": "a.pdf"})
    for index, found in ((1, "query, file"), (2, "query, pdf")):
        with pytest.raises(InputError, match=rf"line {index + 1}.*: no pdf; found {found}"):
            rows[index]
    assert rows[0].positives == rows[3].positives
