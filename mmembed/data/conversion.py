"""Rows from any source to a file of ours or of another trainer: `mmembed data convert`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from mmembed.data.adapter import DatasetAdapter, take
from mmembed.data.exports import EXPORTS, Export, SentenceTransformersExport
from mmembed.data.row_items import MediaMode
from mmembed.data.row_writer import ParquetRowWriter, RowWriter
from mmembed.errors import ConfigError, InputError
from mmembed.types import ContrastiveExample

__all__ = ["TARGETS", "BadRow", "ConversionReport", "convert"]

TARGETS = ("jsonl", "parquet", *EXPORTS)
_BLOCK = 256
_LISTED = 1000

_Writer: TypeAlias = RowWriter | ParquetRowWriter | Export


@dataclass(frozen=True)
class BadRow:
    """A row that was not converted, and why; `place` is its file and line."""

    place: str
    error: InputError

    def __str__(self) -> str:
        detail = self.error.detail
        return detail if detail.startswith(self.place) else f"{self.place}: {detail}"


@dataclass(frozen=True)
class ConversionReport:
    """`written` is False when bad rows were not to be skipped: then there is no file.

    Attributes:
        num_written: rows in the file.
        bad: the first thousand of `num_bad`.
        left: what the format cannot hold -> rows that had it.
    """

    num_rows: int
    num_written: int
    num_bad: int
    bad: tuple[BadRow, ...]
    left: Mapping[str, int]
    written: bool


class _Refused(Exception):  # noqa: N818  ends the block of a writer, which then leaves no file
    pass


def convert(
    adapter: DatasetAdapter,
    out: Path,
    *,
    to: str,
    skip_bad: bool = False,
    media: MediaMode = "reference",
    negatives: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> ConversionReport:
    """Write all rows that can be written; the file appears when it is whole.

    Args:
        to: of `TARGETS`.
        skip_bad: write the others; else a bad row means no file, but all are still read.
        negatives: of each row, for columns of sentence-transformers.
        advance: is told how many rows are done.

    Raises:
        ConfigError: an unknown target, or an option that it does not have.
    """
    bad: list[BadRow] = []
    num_bad = 0
    writer = _writer(out, to, media, negatives)
    try:
        with writer:
            for index, example in _examples(adapter):
                try:
                    if isinstance(example, InputError):
                        raise example
                    writer.write(example, **_meta(adapter, index))
                except InputError as error:
                    num_bad += 1
                    if len(bad) < _LISTED:
                        bad.append(BadRow(_place(adapter, index), error))
                advance(1)
            if num_bad and not skip_bad:
                raise _Refused
    except _Refused:
        pass
    left = dict(writer.left) if isinstance(writer, Export) else {}
    written = skip_bad or not num_bad
    return ConversionReport(
        len(adapter), writer.num_rows if written else 0, num_bad, tuple(bad), left, written
    )


class _WholeFile(RowWriter):
    """JSON lines of ours that appear when they are whole."""

    def __init__(self, path: Path, *, media: MediaMode) -> None:
        self._final = path
        temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
        temporary.unlink(missing_ok=True)
        super().__init__(temporary, media=media)

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is None:
            self.path.replace(self._final)
        else:
            self.path.unlink(missing_ok=True)


def _writer(out: Path, to: str, media: MediaMode, negatives: int | None) -> _Writer:
    if to not in TARGETS:
        raise ConfigError(f"no target {to!r}; targets are {', '.join(TARGETS)}")
    suffixes = (".parquet",) if to == "parquet" else (".jsonl", ".ndjson")
    if out.suffix not in suffixes:
        raise ConfigError(f"{out}: a file of {to} is called *{' or *'.join(suffixes)}")
    if negatives is not None and to != "sentence-transformers":
        raise ConfigError(f"negatives={negatives} is for sentence-transformers, not for {to}")
    if to == "jsonl":
        return _WholeFile(out, media=media)
    if to == "parquet":
        return ParquetRowWriter(out, media=media)
    if to == "sentence-transformers":
        return SentenceTransformersExport(out, negatives=negatives)
    return EXPORTS[to](out)


def _examples(adapter: DatasetAdapter) -> Iterator[tuple[int, ContrastiveExample | InputError]]:
    for begin in range(0, len(adapter), _BLOCK):
        indices = range(begin, min(begin + _BLOCK, len(adapter)))
        yield from zip(indices, take(adapter, indices), strict=True)


def _meta(adapter: DatasetAdapter, index: int) -> dict[str, Any]:
    meta = getattr(adapter, "meta", None)
    found: dict[str, Any] = {} if meta is None else meta(index)
    return found


def _place(adapter: DatasetAdapter, index: int) -> str:
    where = getattr(adapter, "where", None)
    return str(where(index)) if where is not None else f"{adapter.name}, row {index + 1}"
