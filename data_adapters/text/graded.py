"""Two texts and how similar they are: STS, duplicate questions, paraphrases, inference.

Grades stay on the scale of the source, which the card tells. Labels in words or as numbers of
classes get theirs from a table, such as entailment 2, neutral 1, contradiction 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_adapters.cells import shortened
from data_adapters.text.items import example, item, number, text
from data_adapters.text.tables import Selected, open_split, saved_array, scanned
from mmembed.datasets import DatasetCard
from mmembed.errors import InputError
from mmembed.tables.rows import RowTable
from mmembed.types import ContrastiveExample

__all__ = ["GradedRows", "load"]


def load(
    card: DatasetCard,
    folder: Path,
    *,
    table: str = "",
    first: str = "sentence1",
    second: str = "sentence2",
    score: str = "score",
    grades: Mapping[str, float | None] | None = None,
    above: float | None = None,
    both_ways: bool = False,
) -> GradedRows:
    """Pairs with their grades as `scores`.

    Args:
        table: pattern of the files, if they are not where the hub's layouts have them.
        first, second, score: columns.
        grades: grade of each label in the score's column; rows whose label has none (null) are
            left out. None: the column has numbers.
        above: only pairs with a higher grade, for losses that know positives only.
        both_ways: each pair a second time, the other way round.
    """
    rows: RowTable = open_split(card, folder, table, [first, second, score])
    reader = _Reader(first, second, score, grades)
    if above is not None or (grades and None in grades.values()):
        key = f"graded {score} {sorted(grades.items()) if grades else ''} {above}"
        rows = Selected(rows, saved_array([rows], key, lambda: reader.kept(rows, above)))
    return GradedRows(card, rows, reader, both_ways)


class _Reader:
    def __init__(
        self, first: str, second: str, score: str, grades: Mapping[str, float | None] | None
    ) -> None:
        self.columns = (first, second)
        self.score = score
        self.grades = grades

    def grade(self, row: Mapping[str, Any], where: str) -> float | None:
        cell = row[self.score]
        if self.grades is None:
            return number(cell, self.score, where)
        if str(cell) not in self.grades:
            raise InputError(
                "invalid_type",
                f"{where}, {self.score!r}: found {shortened(cell)}; expected one of "
                f"{', '.join(self.grades)}",
            )
        return self.grades[str(cell)]

    def kept(self, table: RowTable, above: float | None) -> np.ndarray:
        """Numbers of the rows that are wanted, and of those that only reading can judge."""

        def is_wanted(row: Mapping[str, Any] | None) -> bool:
            if row is None:
                return True
            try:
                grade = self.grade(row, "")
            except InputError:
                return True
            return grade is not None and (above is None or grade > above)

        return np.array([n for n, row in scanned(table) if is_wanted(row)], dtype=np.int64)


class GradedRows:
    """See `mmembed.datasets.ExampleRows`. Rows `len / 2` and on are those before, turned round."""

    def __init__(
        self, card: DatasetCard, table: RowTable, reader: _Reader, both_ways: bool
    ) -> None:
        self.name, self.task = card.name, card.task
        self.revision, self.license = card.revision, card.license
        self._table, self._reader = table, reader
        self._ways = 2 if both_ways else 1

    @property
    def files(self) -> tuple[Path, ...]:
        return self._table.files

    def __len__(self) -> int:
        return len(self._table) * self._ways

    def __getitem__(self, index: int) -> ContrastiveExample:
        where = self.where(index)
        pair, is_turned = self._place(index)
        row = self._table[pair]
        texts = [text(row[column], column, where) for column in self._reader.columns]
        grade = self._reader.grade(row, where)
        asked, other = reversed(texts) if is_turned else texts
        made = example(self.task, item(asked), [other], scores=(float(grade or 0.0),))
        suffix = "/turned" if is_turned else ""
        return replace(made, query_id=f"{self.name}/{pair}{suffix}")

    def where(self, index: int) -> str:
        return self._table.where(self._place(index)[0])

    def _place(self, index: int) -> tuple[int, bool]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {self.name}; it has {len(self)} rows")
        return index % len(self._table), index >= len(self._table)
