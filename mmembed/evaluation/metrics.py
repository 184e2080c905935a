"""Metrics of rankings and of graded pairs, for all queries at once.

A ranking comes in as the gains of its first documents, so that a gain belongs to its document.
Means are rounded once (`math.fsum`), so that they do not depend on the order of the queries.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = [
    "COUNTS",
    "CUTOFFS",
    "METRICS",
    "mean",
    "pearson",
    "query_metrics",
    "spearman",
]

CUTOFFS = (1, 5, 10)
_NAMES = ("hit", "precision", "recall", "f1", "map", "mrr", "ndcg_linear", "ndcg_exponential")
METRICS = tuple(f"{name}@{k}" for name in _NAMES for k in CUTOFFS)
COUNTS = ("num_pred", "num_data")

_DEPTH = max(CUTOFFS)


def query_metrics(
    gains: np.ndarray, ideal: np.ndarray, num_relevant: np.ndarray
) -> dict[str, np.ndarray]:
    """All of `METRICS` for each query, in their order.

    Precision divides by k, recall by the number of relevant documents, average precision by the
    smaller of the two (`map_cut` of trec_eval divides by the latter).

    Args:
        gains: (Q, 10) of the ranked documents, best first; 0 for one that is not relevant and
            where there are fewer candidates.
        ideal: (Q, 10) the largest gains of each query, in falling order, 0 behind them.
        num_relevant: (Q,) relevant documents of each query, at least 1.
    """
    assert gains.shape == ideal.shape == (len(num_relevant), _DEPTH)
    ranks = np.arange(1, _DEPTH + 1)
    relevant = gains > 0
    hits = np.cumsum(relevant, axis=1)  # (Q, 10) within the first k
    precision = hits / ranks
    recall = hits / num_relevant[:, None]
    harmonic = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    average_precision = np.cumsum(relevant * precision, axis=1)
    average_precision /= np.minimum(num_relevant[:, None], ranks)
    first = np.where(hits > 0, 1 / (relevant.argmax(axis=1) + 1)[:, None], 0.0)
    by_rank = {
        "hit": np.minimum(hits, 1).astype(float),
        "precision": precision,
        "recall": recall,
        "f1": harmonic,
        "map": average_precision,
        "mrr": first,
        "ndcg_linear": _dcg(gains) / _dcg(ideal),
        "ndcg_exponential": _dcg(np.exp2(gains) - 1) / _dcg(np.exp2(ideal) - 1),
    }
    return {f"{name}@{k}": by_rank[name][:, k - 1] for name in _NAMES for k in CUTOFFS}


def _dcg(gains: np.ndarray) -> np.ndarray:
    discounts = np.log2(np.arange(2, _DEPTH + 2))
    return np.cumsum(gains / discounts, axis=1)


def mean(values: np.ndarray) -> float:
    return math.fsum(values.tolist()) / len(values)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation, in [-1, 1]; equal values share the mean of their ranks.

    0 where one side is constant: such an order says nothing.
    """
    return pearson(_average_ranks(first), _average_ranks(second))


def pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation, in [-1, 1]; 0 where one side is constant."""
    x, y = (values.astype(np.float64) for values in (first, second))
    if (x == x[0]).all() or (y == y[0]).all():
        return 0.0
    x, y = x - mean(x), y - mean(y)
    norms = math.sqrt(math.fsum((x * x).tolist())) * math.sqrt(math.fsum((y * y).tolist()))
    return max(-1.0, min(1.0, math.fsum((x * y).tolist()) / norms))


def _average_ranks(values: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[places]
