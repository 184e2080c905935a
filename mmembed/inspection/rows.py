"""Rows of several opened data sets under one numbering, and the items in them by number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mmembed.data.adapter import check_example
from mmembed.data.opening import OpenedDataset
from mmembed.types import ContrastiveExample, MultimodalInput

__all__ = ["RowSpace", "fields_of", "owner_of", "row_of", "sampled_rows"]

_SLOTS = 1 << 16  # items of a row that have a number of their own


class RowSpace:
    """Rows 0..len-1 of all data sets, one after the other."""

    def __init__(self, datasets: Sequence[OpenedDataset]) -> None:
        assert datasets
        self.datasets = tuple(datasets)
        self._starts = np.cumsum([0, *(len(each.adapter) for each in datasets)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def locate(self, row: int) -> tuple[int, int]:
        """(number of the data set, row in it)."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return number, row - int(self._starts[number])

    def name(self, row: int) -> str:
        return self.datasets[self.locate(row)[0]].name

    def place(self, row: int) -> str:
        """`train.jsonl, line 17`, or the data set and its row where the adapter knows no file."""
        number, index = self.locate(row)
        where = getattr(self.datasets[number].adapter, "where", None)
        return f"{self.datasets[number].name}, row {index}" if where is None else str(where(index))

    def example(self, row: int) -> ContrastiveExample:
        """Raises what the adapter raises, or ConfigError for a row that breaks the protocol."""
        number, index = self.locate(row)
        example = self.datasets[number].adapter[index]
        check_example(example, self.place(row))
        return example

    def item(self, owner: int) -> MultimodalInput:
        """The item that `owner_of` numbered."""
        example = self.example(owner // _SLOTS)
        return [item for _, item in fields_of(example)][owner % _SLOTS]

    def field(self, owner: int) -> str:
        slot = owner % _SLOTS
        return "query" if slot == 0 else f"positives[{slot - 1}]"


def owner_of(row: int, slot: int) -> int:
    """One number for a row and which of its items: 0 the query, then the positives."""
    return row * _SLOTS + min(slot, _SLOTS - 1)


def row_of(owner: int) -> int:
    return owner // _SLOTS


def fields_of(example: ContrastiveExample) -> Iterator[tuple[str, MultimodalInput]]:
    """Every item with its name in a file of rows."""
    yield "query", example.query
    for number, item in enumerate(example.positives):
        yield f"positives[{number}]", item
    for number, item in enumerate(example.hard_negatives):
        yield f"negatives[{number}]", item


def sampled_rows(size: int, count: int | None, *, seed: int = 0) -> np.ndarray:
    """`count` of `size` rows, ascending, the same for the same seed; all of them for None."""
    if count is None or count >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).choice(size, count, replace=False, shuffle=False))
