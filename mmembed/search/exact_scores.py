"""Which rows are the nearest, exactly: float32 products to find them, float64 to rank them.

    blocks of vectors -> nearest_candidates -> full_scores -> order by (-score, id)

Shared by `exact_index` and `lance_index`, so that both give the same scores to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from mmembed.search.index import UNIT_TOLERANCE

__all__ = ["Block", "Candidates", "full_scores", "nearest_candidates"]

_BLOCK_ROWS = 16_384
_BLOCK_QUERIES = 128

# vectors (n, D), sorted positions in them (m,), and the numbers that the caller gave those rows
Block = tuple[np.ndarray, np.ndarray, np.ndarray]


def nearest_candidates(
    queries: np.ndarray, k: int, blocks: Callable[[], Iterable[Block]]
) -> Iterator[Candidates]:
    """For each query the rows that may be among its k best; every row is compared.

    Args:
        queries: (B, D) float32.
        blocks: all rows, anew at each call; there is one for every 128 queries.
    """
    for start in range(0, len(queries), _BLOCK_QUERIES):
        chosen = queries[start : start + _BLOCK_QUERIES]
        candidates = [Candidates(k, query) for query in chosen]
        for vectors, positions, numbers in blocks():
            for first in range(0, len(vectors), _BLOCK_ROWS):
                low, high = np.searchsorted(positions, [first, first + _BLOCK_ROWS])
                if low == high:
                    continue
                block = vectors[first : first + _BLOCK_ROWS]
                scores = _scores(chosen, block, positions[low:high] - first)
                for found, row_scores in zip(candidates, scores, strict=True):
                    found.merge(row_scores, numbers[low:high])
        yield from candidates


def full_scores(query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(n,) float64 inner products of (D,) and (n, D)."""
    wide = query.astype(np.float64)
    scores = np.empty(len(vectors))
    for start in range(0, len(vectors), 4096):
        block = vectors[start : start + 4096].astype(np.float64)
        # a plain sum over each row: its value cannot depend on the other rows
        scores[start : start + 4096] = (block * wide).sum(axis=1)
    return scores


class Candidates:
    """All rows of one query that may still be among its k best, whatever float32 rounded away."""

    def __init__(self, k: int, query: np.ndarray) -> None:
        self.query = query
        self.numbers = np.empty(0, dtype=np.int64)
        self._k = k
        self._scores = np.empty(0, dtype=np.float32)
        # |error of a float32 product of D terms| <= D * eps * |q| * |v|, for both sides
        length = float(np.linalg.norm(query)) * (1 + UNIT_TOLERANCE)
        self._slack = 2 * len(query) * float(np.finfo(np.float32).eps) * length

    def merge(self, scores: np.ndarray, numbers: np.ndarray) -> None:
        self._scores = np.concatenate([self._scores, scores])
        self.numbers = np.concatenate([self.numbers, numbers])
        if len(self._scores) > self._k:
            place = len(self._scores) - self._k
            kept = self._scores >= np.partition(self._scores, place)[place] - self._slack
            self._scores, self.numbers = self._scores[kept], self.numbers[kept]


def _scores(queries: np.ndarray, block: np.ndarray, places: np.ndarray) -> np.ndarray:
    if len(places) == len(block):
        return queries @ block.T  # (B, n)
    if 8 * len(places) < len(block):
        return queries @ block[places].T
    return (queries @ block.T)[:, places]
