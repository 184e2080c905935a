"""JSON lines, mapped into memory: where lines begin is found once, a line is parsed when asked.

A bad line keeps its place: it raises when it is read and all others stay usable.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.errors import DataError, InputError

__all__ = ["JsonLines"]

_SCANNED = 1 << 24  # bytes at a time
_NEWLINE = ord("\n")
_SPACE = b" \t\r\n"  # what JSON allows around a value; a line of it alone is no row
_BOM = b"\xef\xbb\xbf"
_decode = json.JSONDecoder().raw_decode


class JsonLines:
    """The rows of one file. Memory: 8 bytes for each line.

    Args:
        columns: what rows hold; None = everything.
        original: the file that this one was made from; what people are told.
        unit: what they call its rows.

    Raises:
        DataError: it cannot be read.
    """

    def __init__(
        self,
        file: Path,
        *,
        columns: Sequence[str] | None = None,
        original: Path | None = None,
        unit: str = "line",
    ) -> None:
        self.files = (original or file,)
        self._name = self.files[0].name
        self._unit = unit
        self._wanted = None if columns is None else tuple(columns)
        self._is_copy = original is not None
        try:
            with file.open("rb") as opened:
                size = opened.seek(0, 2)
                self._bytes = _mapped(opened.fileno()) if size else b""
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from None
        self._starts, self._blank = _find_lines(self._bytes)

    @property
    def columns(self) -> tuple[str, ...]:
        return self._wanted if self._wanted is not None else self.found_columns()

    def found_columns(self) -> tuple[str, ...]:
        """The keys of the first good row."""
        for index in range(len(self)):
            try:
                return tuple(self._whole(index))
            except InputError:
                continue
        return ()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._selected(index, self._whole(index))

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and not (0 <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of a table of {len(self)}")
        content = self._bytes
        bounds = zip(self._starts[wanted].tolist(), self._starts[wanted + 1].tolist(), strict=True)
        return [
            self._selected(index, self._parsed(index, content[begin:end]))
            for index, (begin, end) in zip(indices, bounds, strict=True)
        ]

    def _whole(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a table of {len(self)} rows")
        return self._parsed(index, self._bytes[self._starts[index] : self._starts[index + 1]])

    def _parsed(self, index: int, line: bytes) -> dict[str, Any]:
        try:
            text = str(line, "utf-8")
            try:  # what json.loads does, without what most lines do not need
                row, end = _decode(text)
            except json.JSONDecodeError:
                row, end = None, 0
            if text[end:] != "\n":
                row = json.loads(text)
        except UnicodeDecodeError as error:
            detail = f"{self.where(index)}: not UTF-8: byte {error.start + 1} of the line"
            raise InputError("invalid_text", detail) from None
        except RecursionError:
            raise InputError("corrupt", f"{self.where(index)}: nested too deeply") from None
        except ValueError as error:
            what = str(error)
            if isinstance(error, json.JSONDecodeError):
                what = f"{error.msg}, character {error.pos + 1} of the line"
            raise InputError("corrupt", f"{self.where(index)}: not JSON: {what}") from None
        if type(row) is not dict:
            raise self._no_object(index, row)
        return row

    def _selected(self, index: int, row: dict[str, Any]) -> dict[str, Any]:
        if self._wanted is None:
            return row
        try:
            return {column: row[column] for column in self._wanted}
        except KeyError as error:
            raise InputError(
                "invalid_type",
                f"{self.where(index)}: no column {error}; found {', '.join(row) or 'none'}",
            ) from None

    def where(self, index: int) -> str:
        number = index + 1
        if len(self._blank):
            number += int(np.searchsorted(self._blank, index, side="right"))
        return f"{self._name}, {self._unit} {number}"

    def _no_object(self, index: int, row: Any) -> InputError:
        if self._is_copy and isinstance(row, str):  # what was wrong with it in the original
            return InputError("corrupt", f"{self.where(index)}: {row}")
        return InputError(
            "invalid_type", f"{self.where(index)}: expected an object, found {type(row).__name__}"
        )


def _mapped(descriptor: int) -> mmap.mmap:
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)


def _find_lines(content: mmap.mmap | bytes) -> tuple[np.ndarray, np.ndarray]:
    """Where rows begin, with the end of the file; and how many rows stand before each blank line.

    A row goes on to the next: a blank line, and the end of its own, are space behind its value.
    """
    size = len(content)
    first = len(_BOM) if content[: len(_BOM)] == _BOM else 0
    found = [np.array([first] if size > first else [], dtype=np.int64)]
    for begin in range(0, size, _SCANNED):
        block = np.frombuffer(content, np.uint8, min(_SCANNED, size - begin), begin)
        found.append(np.flatnonzero(block == _NEWLINE) + (begin + 1))
    starts = np.concatenate(found)
    if len(starts) and starts[-1] == size:
        starts = starts[:-1]
    ends = np.append(starts[1:], size)
    whole = np.frombuffer(content, np.uint8)
    # Only a line that begins with space can be blank.
    suspects = np.flatnonzero(np.isin(whole[starts], np.frombuffer(_SPACE, np.uint8)))
    is_blank = np.zeros(len(starts), bool)
    for number in suspects.tolist():
        is_blank[number] = not content[starts[number] : ends[number]].strip(_SPACE)
    blank = np.flatnonzero(is_blank)
    return np.append(starts[~is_blank], size), blank - np.arange(len(blank))
