"""What a vector database must do for `corpus` and `searcher`: the one protocol of all indexes.

    corpus -> upsert / delete -> commit -> optimize
    searcher -> search (vectors) + search_text (words) -> Match

`exact_index` (numpy) defines the results; `lance_index` (embedded, the default) and `qdrant_index`
(a server or a cluster) pass the same conformance suite. `opening.open_index` makes one from an
address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mmembed.errors import ConfigError
from mmembed.search.filters import Filter
from mmembed.search.rows import Match, Row

__all__ = [
    "UNIT_TOLERANCE",
    "Index",
    "IndexStats",
    "OptimizeReport",
    "check_queries",
    "check_unit",
    "given_vectors",
]

UNIT_TOLERANCE = 0.01


@dataclass(frozen=True)
class IndexStats:
    """What an index is made of.

    Attributes:
        rows: searchable rows.
        rows_by_kind: of each kind that occurs.
        bytes_on_disk: of everything that belongs to it; None where a server keeps it.
        method: how vectors are searched now: `exact`, or the approximate index's name.
        unindexed_rows: rows that the approximate index does not hold yet; they are searched
            exactly beside it.
    """

    rows: int
    rows_by_kind: Mapping[str, int]
    bytes_on_disk: int | None
    method: str
    unindexed_rows: int = 0


@dataclass(frozen=True)
class OptimizeReport:
    """What `optimize` did.

    Attributes:
        method: `exact`, or the approximate index that is in use now.
        recall: recall@10 against exact search on held-out queries; None where search is exact.
        reason: why this method, in one line for people.
    """

    method: str
    recall: float | None
    seconds: float
    reason: str


class Index(Protocol):
    """Rows with unit vectors, searched by vector, words and filters.

    Writers collect rows with `upsert` and `delete`; `commit` returns when they are durable and
    seen by new readers. A crash loses at most what was not committed, and never leaves half of a
    commit. Rows are known by `Row.id`: whoever writes an id again replaces the row, also from
    another process.

    Attributes:
        uri: the address that `open_index` takes.
        settings: free JSON values kept with the rows (the model, how files were cut, folders);
            stored by `commit`.
    """

    uri: str
    settings: dict[str, Any]

    @property
    def fingerprint(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def __len__(self) -> int: ...

    def writing(self) -> AbstractContextManager[None]:
        """Begin from what is committed. Raises StoreError where only one writer is possible and
        another is there."""

    def refresh(self) -> None:
        """See what other processes have committed."""

    def upsert(self, rows: Sequence[Row], vectors: np.ndarray | None = None) -> None:
        """Add rows or replace those of the same id.

        Args:
            vectors: (N, D) unit rows; None when `known_vectors` has every `row.key`.

        Raises:
            ValueError: vectors that are not of unit length or not (N, D).
            KeyError: a row whose vector is neither given nor known.
        """

    def delete(self, ids: Iterable[str]) -> int:
        """Remove rows; unknown ids are ignored. Returns how many there were."""

    def commit(self) -> None:
        """Make what was written durable and visible. Raises StoreError."""

    def rows(self, where: Filter | None = None) -> Iterator[Row]:
        """All rows, sorted by id, without holding all of them in memory where that is possible."""

    def get(self, ids: Sequence[str]) -> list[Row]:
        """The rows of these ids, in order. Raises KeyError naming the first unknown id."""

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """(N, D) float32 of these ids, in order. Raises KeyError."""

    def known_vectors(self, keys: Iterable[str]) -> dict[str, np.ndarray]:
        """The vectors of those content keys (`Row.key`) that the index has, of rows to come too."""

    def search(
        self, vectors: np.ndarray, k: int, *, where: Filter | None = None, exact: bool = False
    ) -> list[list[Match]]:
        """The k best rows of each query, best first; equal scores are ordered by id.

        Args:
            vectors: (B, D) or (D,) query vectors.
            exact: look at every row, whatever index there is.
        """

    def search_text(self, text: str, k: int, *, where: Filter | None = None) -> list[Match]:
        """The k best rows for some words (BM25 over `searchable_text`), best first; the scores of
        different indexes cannot be compared. Rows without any of the words are not found."""

    def optimize(self, *, min_recall: float = 0.99) -> OptimizeReport:
        """Build or renew what makes search fast, measure its recall@10 against exact search, and
        keep exact search where it falls below `min_recall`. Frees what former versions held."""

    def stats(self) -> IndexStats: ...

    def close(self) -> None: ...


def check_queries(vectors: np.ndarray, dimension: int, k: int) -> np.ndarray:
    """(B, D) float32 of what was given to `search`.

    Raises:
        ValueError: another shape, or a vector that is not finite. ConfigError: k below 1.
    """
    queries = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise ValueError(
            f"queries have shape {np.shape(vectors)}; this index needs (B, {dimension})"
        )
    if not np.isfinite(queries).all():
        raise ValueError("a query vector is not finite (did its item fail to encode?)")
    if k < 1:
        raise ConfigError(f"k is {k}; it must be at least 1")
    return queries


def given_vectors(
    index: Index, rows: Sequence[Row], vectors: np.ndarray | None
) -> list[np.ndarray]:
    """The vector of each row that `upsert` was given, or that the index knows.

    Raises:
        ValueError: vectors that are not of unit length or not (N, D).
        KeyError: a row whose vector is neither given nor known.
    """
    if vectors is None:
        known = index.known_vectors(row.key for row in rows)
        lost = [row.key for row in rows if row.key not in known]
        if lost:
            raise KeyError(f"{len(lost)} of {len(rows)} rows have no vector, e.g. {lost[0]}")
        return [known[row.key] for row in rows]
    array = np.array(vectors, dtype=np.float32)  # a copy: the caller may go on writing into his
    if array.shape != (len(rows), index.dimension):
        raise ValueError(
            f"vectors have shape {array.shape}; {len(rows)} rows of this index need "
            f"({len(rows)}, {index.dimension})"
        )
    check_unit(array)
    return list(array)


def check_unit(vectors: np.ndarray) -> None:
    """Raises ValueError for the first vector that has not unit length."""
    lengths = np.linalg.norm(np.asarray(vectors, dtype=np.float64), axis=-1)
    bad = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE))
    if len(bad):
        raise ValueError(
            f"vector {bad[0]} has length {lengths[bad[0]]:.4f}; the index ranks by the inner "
            "product and needs unit vectors (normalize_embeddings=True)"
        )
