"""What two rows of a batch must not share: ids of documents, or also contents, as flat arrays.

A mixture may have millions of rows, so that what a row of Python objects would hold is kept in two
arrays for each entry and compared in one sort.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.data.adapter import DatasetAdapter, take
from mmembed.errors import InputError
from mmembed.inputs.contrastive import content_id, document_id, named_id
from mmembed.types import ContrastiveExample, MultimodalInput, Part, Text

__all__ = ["RowIds"]

READ_BYTES = 1 << 20
_READ_ROWS = 64  # at a time; a row may hold pictures


class RowIds:
    """The ids of rows 0, 1, ... of one entry.

    Args:
        ids: of each row, in order; a row may have any number of them.
    """

    def __init__(self, ids: Iterable[Iterable[int]]) -> None:
        flat, ends = array("q"), array("q", [0])
        for each in ids:
            flat.extend(each)
            ends.append(len(flat))
        self._flat = np.frombuffer(flat, dtype=np.int64)
        self._ends = np.frombuffer(ends, dtype=np.int64)

    @classmethod
    def of_documents(cls, adapter: DatasetAdapter, positions: np.ndarray) -> RowIds:
        """All positives of each row: by the adapter's ids where it gives them, else by content."""
        planned = getattr(adapter, "document_ids", None)
        if planned is not None:
            return cls(_planned(planned, positions))
        return cls(_of_each(adapter, positions, _document_ids))

    @classmethod
    def of_contents(cls, adapter: DatasetAdapter, positions: np.ndarray) -> RowIds:
        """Also what the query and the positives say and show, under whatever ids."""
        return cls(_of_each(adapter, positions, _all_ids))

    def of(self, row: int) -> tuple[int, ...]:
        return tuple(self._flat[self._ends[row] : self._ends[row + 1]].tolist())

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ids of many rows, end to end, and how many each row has."""
        counts = self._ends[rows + 1] - self._ends[rows]
        begins = np.repeat(self._ends[rows] - np.cumsum(counts) + counts, counts)
        return self._flat[begins + np.arange(len(begins))], counts


def _planned(
    document_ids: Callable[[int], Iterable[str]], positions: np.ndarray
) -> Iterator[list[int]]:
    for position in positions.tolist():
        try:
            yield [*map(named_id, document_ids(position))]
        except InputError:  # it is met again, and named, when the row is prepared
            yield []


def _of_each(
    adapter: DatasetAdapter,
    positions: np.ndarray,
    ids_of: Callable[[ContrastiveExample], list[int]],
) -> Iterator[list[int]]:
    for begin in range(0, len(positions), _READ_ROWS):
        for example in take(adapter, positions[begin : begin + _READ_ROWS].tolist()):
            yield [] if isinstance(example, InputError) else ids_of(example)


def _document_ids(example: ContrastiveExample) -> list[int]:
    return [document_id(example, number) for number in range(len(example.positives))]


def _all_ids(example: ContrastiveExample) -> list[int]:
    positives = (content_id(_by_content(item)) for item in example.positives)
    query = content_id(_by_content(example.query))
    return [*dict.fromkeys([*_document_ids(example), *positives, ~query])]  # ~: not a document


def _by_content(item: MultimodalInput) -> MultimodalInput:
    """Files and bytes by a digest, so that copies under other names are the same."""
    return MultimodalInput(tuple(map(_part_by_content, item.parts)))


def _part_by_content(part: Part) -> Part:
    if isinstance(part, Text):
        return part
    source: Any = part.source
    digest: Any = tuple(map(_digest, source)) if isinstance(source, tuple) else _digest(source)
    return replace(part, source=digest)


def _digest(source: Any) -> Any:
    """Of the size, the beginning and the end; a source that is neither file nor bytes as it is."""
    if isinstance(source, bytes):
        size, begin, end = len(source), source[:READ_BYTES], source[-READ_BYTES:]
    elif isinstance(source, Path) and source.is_file():
        with suppress(OSError), source.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            begin = file.read(READ_BYTES)
            file.seek(max(0, size - READ_BYTES))
            return _sha(size, begin, file.read(READ_BYTES))
        return source
    else:
        return source
    return _sha(size, begin, end)


def _sha(size: int, begin: bytes, end: bytes) -> bytes:
    return hashlib.sha256(b"%d\0" % size + begin + end).digest()
