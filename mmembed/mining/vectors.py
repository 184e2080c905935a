"""The teacher's vectors of what a catalogue names: encoded once, kept, found by number.

    Catalogue -> encode_all -> TeacherVectors -> nearest.py

What cannot be encoded is marked and left out. Blocks of the catalogue are encoded in a fixed
division, so that neither parts nor a kill change a byte; each part begins at another block.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mmembed.baselines.stored_vectors import StoredVectors
from mmembed.errors import DataError
from mmembed.mining.catalogue import Catalogue
from mmembed.mining.nearest import fixed_point
from mmembed.types import MultimodalInput, Role

__all__ = ["RowScores", "TeacherVectors", "encode_all"]

logger = logging.getLogger(__name__)

_BLOCK = 2048  # items whose vectors are asked for together
_MISSING = -1


class RowScores:
    """Scores of the positives of each row, in one flat array."""

    def __init__(self, num_rows: int) -> None:
        self._begins = np.zeros(num_rows, dtype=np.int64)
        self._counts = np.zeros(num_rows, dtype=np.int64)
        self._pieces: list[np.ndarray] = []
        self._size = 0
        self._flat = np.empty(0, dtype=np.float32)

    @property
    def flat(self) -> np.ndarray:
        """(P,) float32, of all rows."""
        if self._pieces:
            self._flat = np.concatenate([self._flat, *self._pieces])
            self._pieces = []
        return self._flat

    def add(self, rows: np.ndarray, counts: np.ndarray, scores: np.ndarray) -> None:
        """Scores of `rows`, end to end."""
        self._begins[rows] = self._size + np.cumsum(counts) - counts
        self._counts[rows] = counts
        self._pieces.append(scores)
        self._size += len(scores)

    def of(self, row: int) -> np.ndarray:
        begin = self._begins[row]
        return self.flat[begin : begin + self._counts[row]]


class TeacherVectors:
    """Rows of one store by the numbers of a catalogue.

    Attributes:
        documents_ok: (N,) bool: documents that have a vector.
        queries_ok: (R,) bool for each data set: rows whose query and positives have one.
    """

    def __init__(self, catalogue: Catalogue, stored: StoredVectors) -> None:
        assert stored.store is not None
        self.store = stored.store
        self.dimension = stored.encoder.embedding_dimension
        self._catalogue = catalogue
        self._documents = self._located(catalogue.key(n) for n in range(len(catalogue)))
        self._queries = [
            self._located(rows.key(row) for row in range(len(rows))) for rows in catalogue.rows
        ]
        self.documents_ok: np.ndarray = self._documents[:, 0] != _MISSING
        self.queries_ok = []
        for rows, places in zip(catalogue.rows, self._queries, strict=True):
            ok = (places[:, 0] != _MISSING) & (rows.queries >= 0)
            for row in np.flatnonzero(ok).tolist():
                ok[row] = self.documents_ok[rows.positives.of(row)].all()
            self.queries_ok.append(ok)

    def documents(self, numbers: np.ndarray) -> np.ndarray:
        """(N, D) float32."""
        return self._take(self._documents[numbers])

    def queries(self, source: int, rows: np.ndarray) -> np.ndarray:
        """(N, D) float32 of rows of a data set."""
        return self._take(self._queries[source][rows])

    def positive_scores(
        self, source: int, *, advance: Callable[[int], None] = lambda count: None
    ) -> RowScores:
        """Cosines of the queries of a data set with their positives."""
        positives = self._catalogue.rows[source].positives
        scores = RowScores(len(self.queries_ok[source]))
        usable = np.flatnonzero(self.queries_ok[source])
        for begin in range(0, len(usable), _BLOCK):
            rows = usable[begin : begin + _BLOCK]
            documents = [positives.of(row) for row in rows.tolist()]
            counts = np.array([len(each) for each in documents], dtype=np.int64)
            first = np.repeat(np.arange(len(rows)), counts)
            queries = self.queries(source, rows)
            found = self.documents(np.concatenate(documents))
            scores.add(rows, counts, _pair_scores(queries, first, found))
            advance(len(rows))
        return scores

    def _located(self, keys: Iterator[str]) -> np.ndarray:
        """(N, 2) shard and row."""
        nowhere = (_MISSING, _MISSING)
        places = [self.store.locate(key) if key in self.store else nowhere for key in keys]
        return np.array(places, dtype=np.int64).reshape(-1, 2)

    def _take(self, places: np.ndarray) -> np.ndarray:
        rows = np.empty((len(places), self.dimension), dtype=np.float32)
        for shard in np.unique(places[:, 0]).tolist():
            here = places[:, 0] == shard
            rows[here] = self.store.shard(shard)[places[here, 1]]
        return rows


def encode_all(
    catalogue: Catalogue,
    stored: StoredVectors,
    *,
    part: tuple[int, int] = (0, 1),
    advance: Callable[[int], None] = lambda count: None,
) -> TeacherVectors:
    """Encode what has no vector yet.

    Args:
        advance: called with the number of queries or documents since the last call.

    Raises:
        DataError: of a block not one item can be encoded, which is no fault of single files.
    """

    jobs = [
        _Job("document", block, catalogue.key, catalogue.asked_document, catalogue.where)
        for block in _blocks(np.arange(len(catalogue)))
    ]
    for source, rows in enumerate(catalogue.rows):
        where = partial(catalogue.where_row, source)
        jobs += [
            _Job("query", block, rows.key, partial(catalogue.asked_query, source), where)
            for block in _blocks(rows.usable)
        ]
    shift = part[0] * len(jobs) // part[1]
    for job in jobs[shift:] + jobs[:shift]:
        if stored.lacks([job.key(number) for number in job.numbers]):
            failed = _encode(stored, [job.item(number) for number in job.numbers], job.role)
            if len(failed) == len(job.numbers):
                raise failed[0][1]
            for place, error in failed:
                where_it_is = job.where(job.numbers[place])
                logger.warning("left out, the %s of %s: %s", job.role, where_it_is, error)
        advance(len(job.numbers))
    return TeacherVectors(catalogue, stored)


@dataclass(frozen=True)
class _Job:
    """A block of items, and how to get the key, the item and the place of a number."""

    role: Role
    numbers: list[int]
    key: Callable[[int], str]
    item: Callable[[int], MultimodalInput]
    where: Callable[[int], str]


def _encode(
    stored: StoredVectors, items: Sequence[MultimodalInput], role: Role, first: int = 0
) -> list[tuple[int, DataError]]:
    """Encode what can be; halves of what fails are tried until single items are left.

    Returns:
        (position, why) of each item that cannot be encoded.
    """
    try:
        stored.ensure(items, role)
    except DataError as error:
        if len(items) == 1:
            return [(first, error)]
        half = len(items) // 2
        failed = _encode(stored, items[:half], role, first)
        return failed + _encode(stored, items[half:], role, first + half)
    return []


def _blocks(numbers: np.ndarray) -> Iterator[list[int]]:
    for begin in range(0, len(numbers), _BLOCK):
        yield numbers[begin : begin + _BLOCK].tolist()


def _pair_scores(queries: np.ndarray, first: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """(P,) float32 cosines of the queries `first` with the documents beside them."""
    sums = np.einsum("nd,nd->n", fixed_point(queries)[first], fixed_point(documents))
    scores: np.ndarray = sums.astype(np.float32)
    return scores
