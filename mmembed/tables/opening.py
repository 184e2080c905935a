"""Files of rows, whatever their format, as one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.errors import ConfigError, DataError
from mmembed.tables.arrow_rows import ArrowRows, no_columns
from mmembed.tables.content import check_content
from mmembed.tables.conversion import (
    converted,
    decompress,
    write_arrow,
    write_cells,
    write_objects,
)
from mmembed.tables.json_lines import JsonLines
from mmembed.tables.rows import RowTable

__all__ = ["TABLE_SUFFIXES", "open_table"]

_LINES = (".jsonl", ".ndjson")
_CELLS = (".csv", ".tsv")
TABLE_SUFFIXES = (
    *(f"{suffix}{zipped}" for suffix in (*_LINES, ".json", *_CELLS) for zipped in ("", ".gz")),
    ".parquet",
    ".arrow",
)


def open_table(
    files: Sequence[Path],
    *,
    columns: Sequence[str] | None = None,
    cache: Path | None = None,
    names: Sequence[str] | None = None,
    quoted: bool | None = None,
    suffix: str | None = None,
) -> RowTable:
    """The rows of files, end to end.

    JSON lines and Arrow files are mapped into memory as they are. The others are converted once,
    into files that can be.

    Args:
        files: of `TABLE_SUFFIXES`; `.json` holds a list of objects, or lines.
        columns: what rows hold, and all that is converted; None = everything.
        cache: folder of converted files; the user's, see `mmembed.tables.cache`, if None.
        names: of the columns of CSV and TSV files that have no header.
        quoted: whether cells of CSV and TSV files may be in quotation marks; as is usual, in CSV
            but not in TSV, if None. All cells are texts.
        suffix: read files as if their names ended in it, such as `.tsv` for a `.txt`.

    Raises:
        DataError: a file is not there, damaged, of another format, or has not these columns.
    """
    if not files:
        raise DataError("no files to read rows from")
    tables = [_open(Path(file), columns, cache, names, quoted, suffix) for file in files]
    return tables[0] if len(tables) == 1 else _Joined(tables)


def _open(
    file: Path,
    columns: Sequence[str] | None,
    cache: Path | None,
    names: Sequence[str] | None,
    quoted: bool | None,
    suffix: str | None,
) -> RowTable:
    check_content(file)
    kind = file.name.lower().removesuffix(".gz")
    zipped = kind != file.name.lower()
    suffix = suffix or Path(kind).suffix
    if names is not None and suffix not in _CELLS:
        raise ConfigError(f"{file}: names= is for CSV and TSV files without a header")

    def copied(key: str, write: Callable[[Path], None], unit: str) -> JsonLines:
        target = converted(file, key, ".jsonl", write, cache)
        return JsonLines(target, columns=columns, original=file, unit=unit)

    if suffix == ".arrow" and not zipped:
        return ArrowRows(file, columns=columns)
    if suffix == ".parquet" and not zipped:
        key = "all" if columns is None else f"{list(columns)}"
        target = converted(file, key, ".arrow", lambda out: write_arrow(file, out, columns), cache)
        return ArrowRows(target, columns=columns, original=file)
    if suffix in _CELLS:
        separator = "," if suffix == ".csv" else "\t"
        marks = separator == "," if quoted is None else quoted
        key = f"{names and list(names)} {marks}"
        table = copied(key, lambda out: write_cells(file, out, separator, names, marks), "row")
        return _checked(table, columns)
    if suffix == ".json" and (write := write_objects(file)) is not None:
        return copied("objects", write, "row")
    if suffix in (*_LINES, ".json"):
        if zipped:
            return copied("unzipped", lambda out: decompress(file, out), "line")
        return JsonLines(file, columns=columns)
    raise DataError(
        f"{file}: rows of such files cannot be read; known are {', '.join(TABLE_SUFFIXES)}"
    )


def _checked(table: JsonLines, columns: Sequence[str] | None) -> JsonLines:
    """Rows of CSV all have the columns of its header, or none has."""
    found = table.found_columns()
    absent = [column for column in columns or () if found and column not in found]
    if absent:
        raise no_columns(table.files[0], absent, found)
    return table


class _Joined:
    """Tables end to end."""

    def __init__(self, tables: Sequence[RowTable]) -> None:
        self._tables = tuple(tables)
        self._starts = np.cumsum([0, *map(len, tables)])

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(file for table in self._tables for file in table.files)

    @property
    def columns(self) -> tuple[str, ...]:
        return next((table.columns for table in self._tables if len(table)), ())

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        table, own = self._locate(index)
        return table[own]

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        wanted = np.asarray(indices, dtype=np.int64)
        order = np.argsort(wanted, kind="stable")
        bounds = np.searchsorted(wanted[order], self._starts)
        rows: list[Any] = [None] * len(wanted)
        for table, start, (begin, end) in zip(
            self._tables, self._starts, pairwise(bounds), strict=False
        ):
            places = order[begin:end]
            if len(places):
                found = table.take((wanted[places] - start).tolist())
                for place, row in zip(places.tolist(), found, strict=True):
                    rows[place] = row
        return rows

    def where(self, index: int) -> str:
        table, own = self._locate(index)
        return table.where(own)

    def _locate(self, index: int) -> tuple[RowTable, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a table of {len(self)} rows")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._tables[number], index - int(self._starts[number])
