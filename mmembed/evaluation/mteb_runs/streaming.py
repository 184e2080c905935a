"""The first documents of every query over a corpus that comes in windows.

Scores and order are those of `evaluation.ranking`: of equal scores the larger id comes first. Only
the running best and one window's vectors are held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmembed.evaluation.ranking import Candidates, Ranking, check_rows, rank_documents

__all__ = ["Best", "Found", "rank_window"]


@dataclass(frozen=True)
class Found:
    """The first documents of every query; `positions` is -1 behind the last one."""

    ranking: Ranking

    def by_query(self, query_ids: Sequence[str], ids: Sequence[str]) -> dict[str, dict[str, float]]:
        """As mteb wants it: query -> document -> score, best first."""
        found: dict[str, dict[str, float]] = {}
        rows = zip(query_ids, self.ranking.positions, self.ranking.scores, strict=True)
        for query, positions, scores in rows:
            is_there = positions >= 0
            pairs = zip(positions[is_there].tolist(), scores[is_there].tolist(), strict=True)
            found[query] = {ids[position]: score for position, score in pairs}
        return found


def rank_window(
    queries: np.ndarray,
    documents: np.ndarray,
    ids: Sequence[str],
    *,
    k: int,
    pools: Sequence[np.ndarray] | None = None,
) -> Found:
    """Rank (Q, D) against (M, D), or each query against its pool of places.

    Raises:
        DataError: rows that are no finite unit vectors.
    """
    check_rows(queries, [str(row) for row in range(len(queries))], "queries")
    check_rows(documents, ids, "documents")
    kept = list(range(len(queries)))
    if pools is not None:
        kept = [row for row, pool in enumerate(pools) if len(pool)]
        pools = [pools[row] for row in kept]
    k = min(k, len(ids))
    positions = np.full((len(queries), k), -1, dtype=np.int64)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    if kept:
        candidates = Candidates(ids, [{}] * len(kept), pools)
        ranking = rank_documents(queries[kept], documents, candidates, k=k, policies=("docid",))[
            "docid"
        ]
        width = ranking.positions.shape[1]
        positions[kept, :width], scores[kept, :width] = ranking.positions, ranking.scores
    return Found(Ranking(positions, scores))


class Best:
    """The running first `k` documents of a corpus with these ids.

    best = Best(num_queries, ids, k)
    for begin, rows in windows:
        best.merge(queries, rows, begin)
    """

    def __init__(self, num_queries: int, ids: Sequence[str], k: int) -> None:
        self._ids = ids
        self._k = min(k, len(ids))
        by_id = sorted(range(len(ids)), key=ids.__getitem__)
        self._place = np.empty(len(ids) + 1, dtype=np.int64)  # the last one is that of -1
        self._place[by_id] = np.arange(len(ids))
        self._place[-1] = -1
        self._positions = np.full((num_queries, 0), -1, dtype=np.int64)
        self._scores = np.full((num_queries, 0), -np.inf, dtype=np.float32)

    def merge(self, queries: np.ndarray, documents: np.ndarray, begin: int) -> None:
        """Take in the documents from place `begin` on."""
        ids = self._ids[begin : begin + len(documents)]
        new = rank_window(queries, documents, ids, k=self._k).ranking
        shifted = np.where(new.positions < 0, -1, new.positions + begin)
        positions = np.concatenate([self._positions, shifted], axis=1)
        scores = np.concatenate([self._scores, new.scores], axis=1)
        order = np.lexsort((-self._place[positions], -scores), axis=1)[:, : self._k]
        self._positions = np.take_along_axis(positions, order, axis=1)
        self._scores = np.take_along_axis(scores, order, axis=1)

    def by_query(self, query_ids: Sequence[str], ids: Sequence[str]) -> dict[str, dict[str, float]]:
        """See `Found.by_query`."""
        return Found(Ranking(self._positions, self._scores)).by_query(query_ids, ids)
