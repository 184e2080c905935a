"""Rows that hold their passages: `query_id`, `query`, `positive_passages`, `negative_passages`.

The layout of Tevatron's and Castorini's repositories: a passage is `{docid, title, text}`, some
have no title. DuReader's own files are like it under other names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_adapters.cells import shortened
from data_adapters.text.items import drawn, example, item, text, titled
from data_adapters.text.tables import open_split
from mmembed.datasets import DatasetCard
from mmembed.errors import InputError
from mmembed.tables.examples import TableRows
from mmembed.types import ContrastiveExample

__all__ = ["load"]


def load(
    card: DatasetCard,
    folder: Path,
    *,
    table: str = "",
    query: str = "query",
    positives: str = "positive_passages",
    negatives: str = "negative_passages",
    body: str = "text",
    title: str = "title",
    separator: str = " ",
    num_hard_negatives: int | None = None,
    seed: int = 0,
) -> TableRows:
    """Queries with the passages that answer them and those that do not.

    Args:
        table: pattern of the files, if they are not where the hub's layouts have them.
        query, positives, negatives: columns; `negatives` may be empty.
        body, title: keys of a passage.
        separator: between title and text.
        num_hard_negatives: of a row, drawn from its list; None = all.
        seed: of the draw.
    """
    columns = [query, positives, *filter(None, [negatives])]
    rows = open_split(card, folder, table, columns)

    def passages(row: dict[str, Any], column: str, where: str) -> list[str]:
        cell = row[column]
        if not isinstance(cell, list) or not all(isinstance(one, dict) for one in cell):
            raise InputError(
                "invalid_type",
                f"{where}, {column!r}: found {shortened(cell)}; expected a list of passages",
            )
        return [
            titled(one.get(title), text(one.get(body), f"{column}.{body}", where), separator)
            for one in cell
        ]

    def parse(row: dict[str, Any], where: str) -> ContrastiveExample:
        asked = text(row[query], query, where)
        answers = passages(row, positives, where)
        if not answers:
            raise InputError("empty", f"{where}, {positives!r}: there is no positive")
        others = passages(row, negatives, where) if negatives else []
        chosen = drawn(others, num_hard_negatives, f"{card.name}/{seed}/{asked}")
        return example(card.task, item(asked), answers, chosen)

    return TableRows(card, rows, parse)
