"""Tables whose rows hold several examples each, and lists that are in no table file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_adapters.text.tables import saved_array, scanned
from mmembed.tables.rows import RowTable

__all__ = ["PART", "Expanded", "Listed", "expanded"]

# The key under which a row of `Expanded` holds the number of its part.
PART = "\0part"


class Expanded:
    """Part k of row i as a row: `{**row, PART: k}`.

    Args:
        counts: parts of each row; a row with none is left out.
        noun: what a part is, for people.
    """

    def __init__(self, table: RowTable, counts: np.ndarray, noun: str) -> None:
        self._table, self._noun = table, noun
        self._ends = np.cumsum(counts)

    @property
    def files(self) -> tuple[Path, ...]:
        return self._table.files

    @property
    def columns(self) -> tuple[str, ...]:
        return self._table.columns

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, part = self._locate(index)
        return {**self._table[row], PART: part}

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        places = [self._locate(index) for index in indices]
        rows = self._table.take([row for row, _ in places])
        return [{**row, PART: part} for row, (_, part) in zip(rows, places, strict=True)]

    def where(self, index: int) -> str:
        row, part = self._locate(index)
        return f"{self._table.where(row)}, {self._noun} {part + 1}"

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a table of {len(self)} rows")
        row = int(np.searchsorted(self._ends, index, side="right"))
        return row, index - int(self._ends[row - 1] if row else 0)


def expanded(
    table: RowTable,
    count: Callable[[Mapping[str, Any]], int],
    *,
    noun: str,
    key: str,
    counted: RowTable | None = None,
) -> RowTable:
    """A row for each part of each row; a row that cannot be read has one, which says why.

    Args:
        count: the parts of a row.
        key: names `count` and what it depends on; the counts are kept in the user's cache.
        counted: the same rows with fewer columns, to count by.
    """
    source = table if counted is None else counted

    def counts() -> np.ndarray:
        found = (1 if row is None else count(row) for _, row in scanned(source))
        return np.fromiter(found, np.int64, len(source))

    return Expanded(table, saved_array([source], f"parts {key}", counts), noun)


class Listed:
    """Rows that were made of a file that is no table."""

    def __init__(self, file: Path, rows: Sequence[dict[str, Any]], places: Sequence[str]) -> None:
        self.files = (file,)
        self._rows, self._places = rows, places

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self._rows[0]) if self._rows else ()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._rows[index]

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self._rows[index] for index in indices]

    def where(self, index: int) -> str:
        return f"{self.files[0].name}, {self._places[index]}"
