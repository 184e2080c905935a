"""Columns of 64-bit numbers that grow row by row, and the rows that have equal ones.

What a check remembers of each row: eight bytes for a hash and eight for its row, nothing else, so
that a billion bytes hold sixty million of them. Equal hashes are found by one sort at the end.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

__all__ = ["HashColumn", "equal_runs"]


class HashColumn:
    """(value, row) pairs in the order they were added; rows may repeat, or have none."""

    def __init__(self) -> None:
        self._values = array("Q")
        self._rows = array("Q")

    def __len__(self) -> int:
        return min(len(self._values), len(self._rows))

    def add(self, value: int, row: int) -> None:
        if len(self._values) != len(self._rows):  # Ctrl-C came between the two
            size = len(self)
            del self._values[size:], self._rows[size:]
        self._values.append(value)
        self._rows.append(row)

    @property
    def num_bytes(self) -> int:
        return 16 * len(self)

    def values(self) -> np.ndarray:
        """(n,) uint64."""
        return np.array(self._values[: len(self)], dtype=np.uint64)

    def rows(self) -> np.ndarray:
        """(n,) uint64, ascending where rows were added in order."""
        return np.array(self._rows[: len(self)], dtype=np.uint64)

    def groups(self) -> Iterator[np.ndarray]:
        """The distinct rows of each value that at least two of them have, ascending, by the first
        of them."""
        yield from equal_runs(self.values(), self.rows())


def equal_runs(values: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """See `HashColumn.groups`."""
    if not len(values):
        return
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    ends = np.append(starts[1:], len(ordered))
    repeated = ends - starts > 1
    runs = [
        np.unique(rows[order[start:end]])
        for start, end in zip(starts[repeated], ends[repeated], strict=True)
    ]
    yield from sorted((run for run in runs if len(run) > 1), key=lambda run: tuple(run[:2]))
