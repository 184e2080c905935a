"""One committed state of a Lance table, and what of it is kept in memory.

    table at a version -> LanceView -> exact_scores, lance_index

An address names a row of one version of the table: the fragment (a file that never changes) in
its upper 32 bits and the place in it below. So vectors read for one version serve the next ones
too, and only new fragments are read.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mmembed.search.exact_scores import Block, full_scores
from mmembed.search.lance_filters import original_text
from mmembed.search.lance_table import vector_index
from mmembed.search.rows import Match, Row, parse_row

__all__ = ["LanceView"]

_TAKE_ROWS = 4096


class LanceView:
    """Reads one version; several threads may.

    Args:
        table: an open table, for this view alone.
        dimension: of the vectors.
        max_bytes: vectors beyond this are read from the table at each search.
        former: a view of an earlier version, whose vectors are taken over.
    """

    def __init__(
        self, table: Any, *, dimension: int, max_bytes: int, former: LanceView | None = None
    ) -> None:
        self.table = table
        self.version: int = table.version
        self.count: int = table.count_rows()
        self._dimension = dimension
        self._fits = self.count * dimension * 4 <= max_bytes
        self._lock = threading.Lock()
        # fragment -> (addresses (n,), sorted; vectors (n, D))
        self._fragments: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        if former is not None and self._fits:
            self._fragments = dict(former._fragments)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Address of each id."""
        names, addresses = self._column("id")
        return dict(zip(map(original_text, names), addresses.tolist(), strict=True))

    @cached_property
    def keys(self) -> dict[str, int]:
        """The address of one row of each content key."""
        names, addresses = self._column("key")
        return dict(zip(names, addresses.tolist(), strict=True))

    @cached_property
    def unindexed(self) -> int | None:
        """How many rows the approximate index lacks; None where there is no such index."""
        return vector_index(self.table)

    def kinds(self) -> Counter[str]:
        """Rows of each kind."""
        return Counter(self._column("kind")[0])

    def addresses(self, condition: str | None) -> np.ndarray:
        """Of the rows that fulfil some SQL, sorted."""
        return np.sort(self._column("kind", condition)[1])

    def blocks(self, condition: str | None) -> Iterator[Block]:
        """The vectors of the rows that fulfil some SQL, numbered by address."""
        if not self._fits:
            yield from self._streamed(condition)
            return
        self._load()
        wanted = self._live if condition is None else self.addresses(condition)
        for chosen in _by_fragment(wanted):
            addresses, vectors = self._fragments[int(chosen[0]) >> 32]
            yield vectors, np.searchsorted(addresses, chosen), chosen

    def vectors(self, addresses: np.ndarray) -> np.ndarray:
        """(n, D) in order; an address may come twice."""
        found = np.empty((len(addresses), self._dimension), dtype=np.float32)
        order = np.argsort(addresses, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(addresses[order] >> 32)) + 1):
            if not len(places):
                continue
            chosen = addresses[places]
            known = self._fragments.get(int(chosen[0]) >> 32)
            if known is not None:
                found[places] = known[1][np.searchsorted(known[0], chosen)]
                continue
            unique, back = np.unique(chosen, return_inverse=True)
            found[places] = self._read_vectors(unique)[back]
        return found

    def rows(self, addresses: Sequence[int]) -> list[Row]:
        """In order; an address may come twice."""
        found: dict[int, Row] = {}
        unique = sorted(set(addresses))
        for start in range(0, len(unique), _TAKE_ROWS):
            taken = self._take(unique[start : start + _TAKE_ROWS], "row")
            lines = taken["row"].to_pylist()
            found.update(zip(taken["_rowid"].to_pylist(), map(parse_row, lines), strict=True))
        return [found[address] for address in addresses]

    def ranked(self, queries: np.ndarray, found: list[np.ndarray], k: int) -> list[list[Match]]:
        """The k best of the addresses found for each query, by their full vectors."""
        scored = []
        for query, addresses in zip(queries, found, strict=True):
            scores = full_scores(query, self.vectors(addresses))
            if len(scores) > k:
                kept = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
                scores, addresses = scores[kept], addresses[kept]
            scored.append((addresses, scores))
        return self.ordered(scored, k)

    def ordered(self, scored: list[tuple[np.ndarray, np.ndarray]], k: int) -> list[list[Match]]:
        """The k best of each list of addresses and scores; equal scores are ordered by id."""
        rows = iter(self.rows([int(each) for addresses, _ in scored for each in addresses]))
        return [
            sorted(
                (Match(float(score), next(rows)) for score in scores),
                key=lambda match: (-match.score, match.row.id),
            )[:k]
            for _, scores in scored
        ]

    @cached_property
    def _live(self) -> np.ndarray:
        return self.addresses(None)

    def _column(self, name: str, condition: str | None = None) -> tuple[list[str], np.ndarray]:
        query = self.table.search().select([name]).with_row_id(True)
        found = (query if condition is None else query.where(condition)).to_arrow()
        return found[name].to_pylist(), _addresses(found)

    def _load(self) -> None:
        """Hold the vectors of every fragment of this version, and of no other."""
        with self._lock:
            parts = {int(part[0]) >> 32: part for part in _by_fragment(self._live)}
            if parts.keys() == self._fragments.keys():
                return
            kept = {key: self._fragments[key] for key in parts if key in self._fragments}
            for key, part in parts.items():
                if key not in kept:
                    kept[key] = (part, self._read_vectors(part))
            self._fragments = kept

    def _read_vectors(self, addresses: np.ndarray) -> np.ndarray:
        """(n, D) of sorted addresses, each once."""
        found = np.empty((len(addresses), self._dimension), dtype=np.float32)
        for start in range(0, len(addresses), _TAKE_ROWS):
            chosen = addresses[start : start + _TAKE_ROWS]
            taken = self._take(chosen.tolist(), "vector")
            assert (_addresses(taken) == chosen).all()
            found[start : start + _TAKE_ROWS] = _matrix(taken["vector"], self._dimension)
        return found

    def _take(self, addresses: list[int], column: str) -> Any:
        return self.table.take_row_ids(addresses).select([column]).with_row_id().to_arrow()

    def _streamed(self, condition: str | None) -> Iterator[Block]:
        query = self.table.search().select(["vector"]).with_row_id(True)
        if condition is not None:
            query = query.where(condition)
        for batch in query.to_batches(_TAKE_ROWS):
            vectors = _matrix(batch["vector"], self._dimension)
            yield vectors, np.arange(len(vectors)), _addresses(batch)


def _by_fragment(addresses: np.ndarray) -> list[np.ndarray]:
    """Sorted addresses, cut where the fragment changes."""
    if not len(addresses):
        return []
    return np.split(addresses, np.flatnonzero(np.diff(addresses >> 32)) + 1)


def _addresses(found: Any) -> np.ndarray:
    return np.asarray(found["_rowid"]).astype(np.int64)


def _matrix(column: Any, dimension: int) -> np.ndarray:
    """(n, D) of a column of lists."""
    chunks = getattr(column, "chunks", [column])
    parts = [np.asarray(chunk.flatten()).reshape(-1, dimension) for chunk in chunks]
    if not parts:
        return np.empty((0, dimension), dtype=np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
