"""The nearest documents of queries, exactly, in blocks: no more than one block of scores is held.

Scores are dot products of unit rows in fixed point: a component becomes a multiple of 2^-26, so
that a float64 holds every partial sum and the sum is the same in any order. What is found depends
neither on blocks nor on threads, and is equal on a CPU and a GPU. Of equal scores the document of
the lower number comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["Hidden", "Hits", "cosines", "fixed_point", "nearest"]

_STEPS = 2.0**26
_LOW = 2**32 - 1  # bits of a key below the score
_QUERIES = 512  # that are scored at once
_NOTHING = torch.iinfo(torch.int64).min


@dataclass(frozen=True)
class Hits:
    """The nearest documents of every query, best first.

    Attributes:
        places: (Q, k) int64 in the pool; -1 behind the last candidate.
        scores: (Q, k) float32; -inf there.
    """

    places: np.ndarray
    scores: np.ndarray

    def of(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """(n,) places and scores of the n <= k candidates that a query has."""
        count = int((self.places[query] >= 0).sum())
        return self.places[query, :count], self.scores[query, :count]


@dataclass(frozen=True)
class Hidden:
    """Documents that a query must not find.

    Attributes:
        queries, places: (H,) int64, one pair for each, sorted by `places`.
        query_labels, pool_labels: (Q,) and (N,) int64; documents of a query's label are hidden
            too; -1: no label. None: no labels at all.
    """

    queries: np.ndarray
    places: np.ndarray
    query_labels: np.ndarray | None = None
    pool_labels: np.ndarray | None = None


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, D) and (M, D) unit rows -> (N, M) float32."""
    rows: np.ndarray = (fixed_point(first) @ fixed_point(second).T).astype(np.float32)
    return rows


def nearest(
    queries: np.ndarray,
    size: int,
    documents: Callable[[int, int], np.ndarray],
    *,
    k: int,
    hidden: Hidden,
    device: str | torch.device = "cpu",
    block: int = 4096,
) -> Hits:
    """(Q, D) unit rows against a pool of `size` documents.

    Args:
        documents: (begin, end) -> (end - begin, D) unit rows of the pool.
        block: documents that are read and scored at once. No result depends on it.
    """
    if not len(queries):
        return _hits(np.empty((0, 0), dtype=np.int64), k)
    wanted = _on(queries, device)
    labels = _labels(hidden.query_labels, wanted.device)
    best = torch.full((len(queries), 0), _NOTHING, dtype=torch.int64, device=wanted.device)
    for begin in range(0, size, block):
        end = min(begin + block, size)
        rows = _on(documents(begin, end), device)
        here = None if hidden.pool_labels is None else hidden.pool_labels[begin:end]
        of_block = _labels(here, wanted.device)
        first, last = np.searchsorted(hidden.places, [begin, end])
        asked, places = hidden.queries[first:last], hidden.places[first:last] - begin
        found = []
        for start in range(0, len(queries), _QUERIES):
            part = slice(start, start + _QUERIES)
            scores = (wanted[part] @ rows.T).float()  # (Q, end - begin)
            inside = (asked >= start) & (asked < start + _QUERIES)
            pairs = np.stack([asked[inside] - start, places[inside]])
            scores[tuple(torch.from_numpy(pairs).to(wanted.device))] = -torch.inf
            if labels is not None and of_block is not None:
                same = (labels[part, None] == of_block) & (labels[part, None] >= 0)
                scores.masked_fill_(same, -torch.inf)
            found.append(_largest(scores, begin, k))
        best = torch.cat([best, torch.cat(found)], dim=1)
        best = best.topk(min(k, best.shape[1]), dim=1).values
    return _hits(best.cpu().numpy(), k)


def _largest(scores: torch.Tensor, begin: int, k: int) -> torch.Tensor:
    """(Q, <= k) keys of the best documents of a block that begins at a place of the pool."""
    k = min(k, scores.shape[1])
    values, columns = scores.topk(k, dim=1)
    last = values[:, -1:]
    is_tied = ((scores >= last).sum(dim=1, keepdim=True) > k) & (last > -torch.inf)
    if not is_tied.any():
        return _keys(values, columns + begin)
    places = torch.arange(begin, begin + scores.shape[1], device=scores.device)
    return _keys(scores, places).topk(k, dim=1).values


def _keys(scores: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Integers in the order of (score, lower place first); no two of a query are equal."""
    bits = (scores + 0.0).view(torch.int32).long()  # + 0.0: no negative zero
    ordered = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    keys = (ordered << 32) + (_LOW - places)
    return torch.where(scores > -torch.inf, keys, _NOTHING)


def _hits(keys: np.ndarray, k: int) -> Hits:
    missing = k - keys.shape[1]
    keys = np.pad(keys, ((0, 0), (0, missing)), constant_values=_NOTHING)
    found = keys != _NOTHING
    ordered = keys >> 32
    bits = np.where(ordered < 0, -ordered | (1 << 31), ordered).astype(np.uint32)
    places = np.where(found, _LOW - (keys & _LOW), -1)
    return Hits(places, np.where(found, bits.view(np.float32), np.float32(-np.inf)))


def fixed_point(rows: np.ndarray) -> np.ndarray:
    """Float64 multiples of 2^-26, whose products add up exactly."""
    fixed: np.ndarray = np.rint(rows.astype(np.float64) * _STEPS) / _STEPS
    return fixed


def _on(rows: np.ndarray, device: str | torch.device) -> torch.Tensor:
    """In fixed point."""
    moved = torch.from_numpy(np.ascontiguousarray(rows)).to(device).double()
    return moved.mul_(_STEPS).round_().div_(_STEPS)


def _labels(labels: np.ndarray | None, device: torch.device) -> torch.Tensor | None:
    return None if labels is None else torch.from_numpy(labels.astype(np.int64)).to(device)
