"""Queries against a corpus: exact top-k by cosine, and the metrics of a retrieval task.

The corpus is scanned in blocks, so the full score matrix is never held. Ties go to the document
that comes first in the corpus.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmembed.tasks import RetrievalTask

__all__ = ["RankedTask", "chance_hit_rate", "hit_rate", "rank", "top_k"]


@dataclass(frozen=True)
class RankedTask:
    """The k best documents of every query of a task, best first.

    Attributes:
        documents: (Q, k) positions in the corpus.
        scores: (Q, k) cosines.
        relevant: (Q, k) bool, whether the document answers the query.
        num_relevant: (Q,) relevant documents of each query in the whole corpus.
        corpus_size: number of documents.
    """

    documents: np.ndarray
    scores: np.ndarray
    relevant: np.ndarray
    num_relevant: np.ndarray
    corpus_size: int


def top_k(
    queries: np.ndarray, documents: np.ndarray, k: int, *, block: int = 8192
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, D) and (M, D) unit rows -> positions and scores, (Q, min(k, M)), best first.

    Raises:
        ValueError: a vector holds NaN or infinity, whose rank would be arbitrary.
    """
    for name, rows in (("query", queries), ("document", documents)):
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise ValueError(f"{name} vector {bad[0]} is not finite ({len(bad)} such); not ranked")
    k = min(k, len(documents))
    positions = np.empty((len(queries), 0), dtype=np.int64)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    for begin in range(0, len(documents), block):
        found = queries @ documents[begin : begin + block].T  # (Q, block)
        here = np.broadcast_to(np.arange(begin, begin + found.shape[1]), found.shape)
        scores = np.concatenate([scores, found], axis=1)
        positions = np.concatenate([positions, here], axis=1)
        order = np.lexsort((positions, -scores), axis=1)[:, :k]
        scores = np.take_along_axis(scores, order, axis=1)
        positions = np.take_along_axis(positions, order, axis=1)
    return positions, scores


def rank(
    task: RetrievalTask, queries: np.ndarray, documents: np.ndarray, *, k: int = 10
) -> RankedTask:
    """Rank a task whose queries and corpus were embedded in their own order.

    Raises:
        ValueError: a query without a relevant document in the corpus.
    """
    ids = list(task.corpus)
    positions, scores = top_k(queries, documents, k)
    relevant = np.zeros(positions.shape, dtype=bool)
    counts = np.zeros(len(task.queries), dtype=np.int64)
    for row, query_id in enumerate(task.queries):
        answers = {name for name, grade in task.relevant.get(query_id, {}).items() if grade > 0}
        counts[row] = sum(name in task.corpus for name in answers)
        if not counts[row]:
            raise ValueError(f"{task.name}: query {query_id!r} has no relevant document")
        relevant[row] = [ids[position] in answers for position in positions[row]]
    return RankedTask(positions, scores, relevant, counts, len(ids))


def hit_rate(ranked: RankedTask, k: int) -> float:
    """R@k: share of the queries with a relevant document among the first k."""
    return float(ranked.relevant[:, :k].any(axis=1).mean())


def chance_hit_rate(num_relevant: Sequence[int] | np.ndarray, corpus_size: int, k: int) -> float:
    """Expected R@k of a random ranking: mean of 1 - C(M - r, k) / C(M, k)."""
    k = min(k, corpus_size)
    total = math.comb(corpus_size, k)
    missed: Mapping[int, float] = {
        int(r): math.comb(corpus_size - int(r), k) / total for r in set(map(int, num_relevant))
    }
    return float(np.mean([1 - missed[int(r)] for r in num_relevant]))
