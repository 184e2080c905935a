"""Your own PDF files and a table of queries: `{"pdf": "reports/q3.pdf", "page": 4, "query": ...}`.

JSON lines, CSV or parquet; the format `pdf-queries`. `page`, or `pages`, is a number from 1, a
range such as `2-5`, or left out for the whole file; several rows may name one page. `negatives` may
list `{"pdf", "page"}` or paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_adapters.cells import shortened
from data_adapters.document_ids import document_ids
from data_adapters.media import safe_path
from data_adapters.text.items import item, text
from mmembed.datasets import FLOATING, DatasetCard
from mmembed.errors import DataError, InputError
from mmembed.tables.examples import TableRows
from mmembed.tables.opening import open_table
from mmembed.types import ContrastiveExample, MultimodalInput, Page, Task

__all__ = ["PdfQueries"]


class PdfQueries(TableRows):
    """The rows of such a table.

    Args:
        path: of the table.
        media_root: folder that the paths of PDF files count from; that of the table if None.
        name: what logs call it; the table's if None.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        media_root: str | Path | None = None,
        name: str | None = None,
        task: Task = "retrieval",
        query: str = "query",
        pdf: str = "pdf",
        page: str = "page",
        negatives: str = "negatives",
    ) -> None:
        path = Path(path)
        if not path.is_file():
            raise DataError(f"{path} is not there")
        root = path.parent if media_root is None else Path(media_root)

        def document(row: dict[str, Any], where: str) -> MultimodalInput:
            if row.get(pdf) in (None, ""):
                raise InputError("empty", f"{where}: no {pdf}; found {', '.join(map(str, row))}")
            file = safe_path(root, row[pdf], where=where)
            if not file.is_file():
                raise InputError(
                    "not_found", f"{where}: {file} is not there", part="pdf", source=file.name
                )
            return MultimodalInput(
                (Page(file, pages=_pages(row.get(page, row.get("pages")), where)),)
            )

        def parse(row: dict[str, Any], where: str) -> ContrastiveExample:
            positives = (document(row, where),)
            others = row.get(negatives) or []
            if not isinstance(others, list):
                raise InputError(
                    "invalid_type", f"{where}, {negatives!r}: found {shortened(others)}"
                )
            entries = [{pdf: other} if isinstance(other, str) else other for other in others]
            return ContrastiveExample(
                item(text(row.get(query), query, where)),
                positives,
                tuple(document(entry, where) for entry in entries),
                task=task,
                positive_ids=document_ids(positives, root),
            )

        card = DatasetCard(
            name or path.stem, task, "text", "pdf", revision=FLOATING, license="unknown"
        )
        super().__init__(card, open_table([path]), parse)

    @classmethod
    def matches(cls, columns: Sequence[str], row: Mapping[str, Any]) -> bool:
        return {"pdf", "query"} <= set(columns) and "positives" not in columns


def _pages(value: Any, where: str) -> str | None:
    if value is None or value == "":
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole and not isinstance(value, str):
        raise InputError(
            "invalid_type", f"{where}: the page is {shortened(value)}; expected 4, or '2-5'"
        )
    return str(value)
