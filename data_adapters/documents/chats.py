"""Questions about whole documents: Docmatix.

A row has the pages of a document, as `images` or as a `pdf`, and `texts`: a list of `{"user": ...,
"assistant": ...}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_adapters.cells import shortened
from data_adapters.document_ids import document_id, document_ids
from data_adapters.expanded import PART, expanded
from data_adapters.media import media_source
from data_adapters.text.items import item, text
from data_adapters.text.tables import open_split
from mmembed.datasets import DatasetCard, ExampleRows
from mmembed.errors import ConfigError, InputError
from mmembed.tables.examples import TableRows
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Page, Part, Text

__all__ = ["load"]


def load(
    card: DatasetCard,
    folder: Path,
    table: str = "",
    direction: str = "t2i",
    turns: str = "first",
    max_pages: int | None = None,
) -> ExampleRows:
    """A row for each document, or for each question about it.

    Args:
        table: pattern of the files below `folder`, where they are not in a layout of the hub.
        direction: `t2i`: the question asks for the document; `qa`: document and question ask for
            the answer.
        turns: `first`, or `all` questions of a document, each by itself.
        max_pages: of the pictures of each document, the first ones; null = all.
    """
    if direction not in ("t2i", "qa") or turns not in ("first", "all"):
        raise ConfigError(
            f"direction {direction!r}, turns {turns!r}; known: t2i, qa and first, all"
        )
    rows = open_split(card, folder, table)
    if max_pages is not None and "pdf" in rows.columns:
        raise ConfigError(
            f"{card.name}: max_pages is {max_pages}, but a PDF file is taken whole; leave it out"
        )
    if turns == "all":
        chats = open_split(card, folder, table, columns=["texts"])
        rows = expanded(rows, _num_questions, noun="question", key="texts", counted=chats)

    def parse(row: dict[str, Any], where: str) -> ContrastiveExample:
        found = row.get("texts")
        if not isinstance(found, list) or not found or not isinstance(found[0], dict):
            raise InputError("invalid_type", f"{where}: no questions in {shortened(found)}")
        chat = found[row.get(PART, 0)]
        question = text(chat.get("user"), "user", where)
        pages = _pages(row, folder, max_pages, where)
        if direction == "qa":
            answers = (item(text(chat.get("assistant"), "assistant", where)),)
            query = MultimodalInput((*pages, Text(question)))
            return ContrastiveExample(
                query, answers, task=card.task, positive_ids=document_ids(answers)
            )
        document = MultimodalInput(pages)
        name = document_id(document, folder)
        return ContrastiveExample(item(question), (document,), task=card.task, positive_ids=(name,))

    return TableRows(card, rows, parse)


def _num_questions(row: Mapping[str, Any]) -> int:
    found = row.get("texts")
    return max(1, len(found)) if isinstance(found, list) else 1


def _pages(row: Mapping[str, Any], folder: Path, most: int | None, where: str) -> tuple[Part, ...]:
    if row.get("pdf") is not None:
        source = media_source(row["pdf"], folder, where=where)
        return (Page(source),)
    cells = row.get("images")
    if not isinstance(cells, list) or not cells:
        raise InputError("empty", f"{where}: no pages; found {shortened(cells)}")
    return tuple(Image(media_source(cell, folder, where=where)) for cell in cells[:most])
