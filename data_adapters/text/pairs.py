"""Rows with a column for the query, one for its positives and any number for its negatives.

The layout of the sentence-transformers repositories, of FlagEmbedding (`query`, `pos`, `neg`, lists
of texts), of the public E5 collection (`query`, `positive`, `negative`) and of the NLI file of
SimCSE. The other columns of a source make other tasks: title to body, comment to code.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from data_adapters.cells import shortened
from data_adapters.text.items import drawn, example, item, number, text, titled
from data_adapters.text.tables import open_split
from mmembed.datasets import DatasetCard
from mmembed.errors import ConfigError, InputError
from mmembed.tables.examples import TableRows
from mmembed.types import ContrastiveExample

__all__ = ["load"]


def load(
    card: DatasetCard,
    folder: Path,
    *,
    table: str = "",
    query: str = "anchor",
    positive: str = "positive",
    negatives: Sequence[str] = (),
    title: str = "",
    instruction: str = "",
    scores: Sequence[str] = (),
    separator: str = " ",
    num_hard_negatives: int | None = None,
    seed: int = 0,
) -> TableRows:
    """Rows of texts.

    Args:
        table: pattern of the files, if they are not where the hub's layouts have them.
        query: column of one text.
        positive: column of a text, or of a list of them: all are positives.
        negatives: columns of a text or of a list; `negative_*` stands for all columns so named.
        title: column of the positive's title, written before it.
        instruction: column of the query's instruction, if rows bring their own.
        scores: two columns, lists of the scores of positives and of negatives by a teacher; a row
            where either is empty has none.
        separator: between title and text.
        num_hard_negatives: of a row; others than the first ones of a longer list. None = all.
        seed: of their choice.
    """
    if scores and len(scores) != 2:
        raise ConfigError(f"scores: {list(scores)}; give the columns of positives and negatives")
    wanted = [query, positive, *negatives, *filter(None, (title, instruction)), *scores]
    is_pattern = any("*" in name for name in negatives)
    rows = open_split(card, folder, table, None if is_pattern else wanted)
    columns = _resolved(negatives, rows.columns) if is_pattern else list(negatives)

    def parse(row: dict[str, Any], where: str) -> ContrastiveExample:
        asked = text(_cell(row, query, where), query, where)
        positives = _texts(_cell(row, positive, where), positive, where)
        if not positives:
            raise InputError("empty", f"{where}, {positive!r}: there is no positive")
        if title:
            heading = _cell(row, title, where)
            positives = [titled(heading, one, separator) for one in positives]
        others = [one for name in columns for one in _texts(_cell(row, name, where), name, where)]
        graded = _scores(row, where, len(positives), len(others)) if scores else None
        places = range(len(others))
        chosen = drawn(places, num_hard_negatives, f"{card.name}/{seed}/{asked}")
        if graded is not None:
            graded = (*graded[: len(positives)], *(graded[len(positives) + n] for n in chosen))
        own = row.get(instruction) if instruction else None
        return example(
            card.task,
            item(asked, own if isinstance(own, str) and own else None),
            positives,
            others if chosen is places else [others[place] for place in chosen],
            scores=graded,
        )

    def _scores(
        row: dict[str, Any], where: str, num_positives: int, num_negatives: int
    ) -> tuple[float, ...] | None:
        found = [row.get(name) or [] for name in scores]
        if not all(found[: 1 + bool(num_negatives)]):
            return None
        lengths = [len(one) if isinstance(one, list) else -1 for one in found]
        if lengths != [num_positives, num_negatives]:
            raise InputError(
                "invalid_type",
                f"{where}: {lengths[0]} and {lengths[1]} scores in {', '.join(scores)} for "
                f"{num_positives} positives and {num_negatives} negatives",
            )
        return tuple(
            number(score, name, where)
            for name, column in zip(scores, found, strict=True)
            for score in column
        )

    return TableRows(card, rows, parse)


def _resolved(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    found = [
        column
        for name in names
        for column in columns
        if column == name or fnmatchcase(column, name)
    ]
    return list(dict.fromkeys(found))


def _cell(row: dict[str, Any], column: str, where: str) -> Any:
    if column not in row:
        raise InputError(
            "invalid_type", f"{where}: no column {column!r}; found {', '.join(row) or 'none'}"
        )
    return row[column]


def _texts(cell: Any, column: str, where: str) -> list[str]:
    """The texts of a cell; an empty one in a list is no text, as FlagEmbedding fills up lists."""
    if isinstance(cell, list):
        return [text(one, column, where) for one in cell if one not in ("", None)]
    if cell is None:
        raise InputError(
            "invalid_type",
            f"{where}, {column!r}: found {shortened(cell)}; expected a text or a list of texts",
        )
    return [text(cell, column, where)]
