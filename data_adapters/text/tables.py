"""The files of a data set as tables, and what was found in them once, kept as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.datasets import DatasetCard
from mmembed.errors import DataError, InputError
from mmembed.tables.conversion import converted
from mmembed.tables.layouts import find_table, repository_folders
from mmembed.tables.opening import open_table
from mmembed.tables.rows import RowTable

__all__ = [
    "Selected",
    "beside",
    "open_files",
    "open_split",
    "saved_array",
    "scanned",
    "table_files",
]

_BLOCK = 4096
_MAPPED = 1 << 20  # smaller arrays are read
# Beside the layouts of `find_table`, which are those of evaluation sets.
_ZIPPED = ("{config}/{split}.jsonl.gz", "data/{config}/{split}.jsonl.gz", "{split}.jsonl.gz")


def table_files(card: DatasetCard, folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of the first pattern that has any; `{config}` and `{split}` are the card's."""
    for pattern in patterns:
        named = pattern.format(config=card.config, split=card.split)
        found = folder.glob(named.replace("//", "/").lstrip("/"))  # without a configuration
        if files := sorted(path for path in found if path.is_file()):
            return files
    return []


def open_split(
    card: DatasetCard, folder: Path, table: str = "", columns: Sequence[str] | None = None
) -> RowTable:
    """The rows of one split.

    Args:
        table: a pattern below `folder`; if empty, the files of the card's `config` and `split`
            are where the hub's layouts have them.
        columns: those that are read.

    Raises:
        DataError: there are no such files.
    """
    if table:
        files = table_files(card, folder, (table,))
    else:
        files = find_table(folder, card.config, card.split) or table_files(card, folder, _ZIPPED)
    if not files:
        sought = (
            table.format(config=card.config, split=card.split)
            if table
            else (
                f"a table for the split {card.split!r}"
                + (f" of the configuration {card.config!r}" if card.config else "")
            )
        )
        raise DataError(f"data set {card.name!r}: {folder} has not {sought}")
    return open_files(files, columns)


def open_files(
    files: Sequence[Path], columns: Sequence[str] | None, names: Sequence[str] | None = None
) -> RowTable:
    """See `open_table`; the `.txt` files of these sources are tables with tabs."""
    suffix = ".tsv" if all(file.suffix == ".txt" for file in files) else None
    return open_table(files, columns=columns, names=names, suffix=suffix)


def beside(folder: Path, repo: str) -> Path | None:
    """The folder of another repository under the same root, wherever the root is above `folder`."""
    for root in folder.parents[:3]:
        for place in repository_folders(root, repo):
            if place.is_dir():
                return place
    return None


class Selected:
    """Some rows of a table, as a table."""

    def __init__(self, table: RowTable, rows: np.ndarray) -> None:
        self._table = table
        self.numbers = rows

    @property
    def files(self) -> tuple[Path, ...]:
        return self._table.files

    @property
    def columns(self) -> tuple[str, ...]:
        return self._table.columns

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a table of {len(self)} rows")
        return self._table[int(self.numbers[index])]

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return self._table.take(self.numbers[np.asarray(indices, dtype=np.int64)].tolist())

    def where(self, index: int) -> str:
        return self._table.where(int(self.numbers[index]))


def scanned(table: RowTable) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """All rows with their numbers; None for one that cannot be read (reading it says why)."""
    for begin in range(0, len(table), _BLOCK):
        numbers = range(begin, min(begin + _BLOCK, len(table)))
        try:
            rows: Sequence[dict[str, Any] | None] = table.take(numbers)
        except InputError:
            rows = [_row(table, number) for number in numbers]
        yield from zip(numbers, rows, strict=True)


def _row(table: RowTable, number: int) -> dict[str, Any] | None:
    try:
        return table[number]
    except InputError:
        return None


def saved_array(tables: Sequence[RowTable], key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """`make()`, kept in the user's cache for as long as the files of the tables stay the same.

    Args:
        key: everything else that the result depends on.
    """
    files = [file for table in tables for file in table.files]
    states = [(file.name, (state := file.stat()).st_size, state.st_mtime_ns) for file in files]

    def write(path: Path) -> None:
        with path.open("wb") as out:
            np.save(out, make(), allow_pickle=False)

    path = converted(files[0], f"{key} {states}", ".npy", write, None)
    is_large = path.stat().st_size > _MAPPED
    array: np.ndarray = np.load(path, mmap_mode="r" if is_large else None, allow_pickle=False)
    return array
