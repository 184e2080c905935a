"""Queries against a corpus, or each against its own pool: the first k documents, exactly.

Scores are dot products of unit rows in fixed point. A component becomes a multiple of 2^-26, so
every product is one of 2^-52 and every partial sum stays below 2: a float64 holds all of them, and
the sum is the same whatever the order of the additions, the size of the blocks and the number of
threads. Equal rows have equal scores wherever they stand. The step moves a score by some 1e-8,
which is less than the rounding to float32 at the end does.

A score and the place of its document in the order of a tie policy make one integer. All integers
of a query differ, so that their largest k are the first k of a total order. Blocks of the corpus
are merged into them; no more than a block of scores is held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmembed.errors import DataError
from mmembed.evaluation.results import TIES, TiePolicy

__all__ = [
    "Candidates",
    "Ranking",
    "chance_hit_rate",
    "check_rows",
    "named",
    "pair_scores",
    "rank_documents",
]

_STEPS = 2.0**26  # of a component of a row
_NORM_TOLERANCE = 0.01  # rows that went through bfloat16 are within it
_POOL_QUERIES = 128  # whose pools are looked at together
_CORPUS_QUERIES = 512
_LOW = 2**32 - 1  # bits of a key below the score
_SIGN = np.uint32(1 << 31)


@dataclass(frozen=True)
class Candidates:
    """What is ranked for each query.

    Attributes:
        ids: of the corpus.
        grades: for each query, position in the corpus -> positive grade.
        pools: for each query the positions of its candidates, in order; None: the whole corpus.
    """

    ids: Sequence[str]
    grades: Sequence[Mapping[int, float]]
    pools: Sequence[np.ndarray] | None = None


@dataclass(frozen=True)
class Ranking:
    """The first documents of every query, best first.

    Attributes:
        positions: (Q, k) in the corpus; -1 behind the last candidate.
        scores: (Q, k) float32; -inf there.
    """

    positions: np.ndarray
    scores: np.ndarray


def check_rows(rows: np.ndarray, ids: Sequence[str], what: str) -> None:
    """Refuse rows that have no direction or are not of unit length.

    Raises:
        DataError: with the ids of all kinds of bad rows.
    """
    if rows.ndim != 2 or len(rows) != len(ids):
        raise DataError(f"{what}: {len(ids)} ids, but an array of shape {rows.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    finite = np.isfinite(rows).all(axis=1)
    kinds = {
        "NaN or infinity": ~finite,
        "zeros only": finite & (norms == 0),
        "not of unit length": finite & (norms > 0) & (abs(norms - 1) > _NORM_TOLERANCE),
    }
    found = [
        f"{what} {named([ids[row] for row in np.flatnonzero(bad).tolist()])}: {kind}"
        for kind, bad in kinds.items()
        if bad.any()
    ]
    if found:
        raise DataError(f"{'; '.join(found)}; such vectors are not ranked")


def named(ids: Sequence[str], shown: int = 10) -> str:
    """Some ids for a message."""
    more = f" and {len(ids) - shown} more" if len(ids) > shown else ""
    return ", ".join(map(repr, ids[:shown])) + more


def pair_scores(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, D) and (N, D) unit rows -> (N,) float32 cosines of the pairs."""
    sums = np.einsum("nd,nd->n", _fixed_point(first), _fixed_point(second))
    return _rounded(sums)


def rank_documents(
    queries: np.ndarray,
    documents: np.ndarray,
    candidates: Candidates,
    *,
    k: int = 10,
    policies: Sequence[TiePolicy] = TIES,
    block: int = 2048,
) -> dict[TiePolicy, Ranking]:
    """(Q, D) and (M, D) unit rows -> the first k documents under each of the tie policies.

    Args:
        block: documents whose scores are held at once for a few hundred queries. No result depends
            on it.
    """
    order = _TieOrder(candidates)
    scan, step = _scan_corpus, _CORPUS_QUERIES
    if candidates.pools is not None:
        scan, step = _scan_pools, _POOL_QUERIES
    found: dict[TiePolicy, list[np.ndarray]] = {ties: [] for ties in policies}
    for begin in range(0, len(queries), step):
        rows = range(begin, min(begin + step, len(queries)))
        vectors = _fixed_point(queries[begin : rows.stop])
        best = {ties: np.zeros((len(rows), k), dtype=np.uint64) for ties in policies}
        for here in scan(vectors, documents, candidates, rows, block):
            scores = _sortable(here.scores) << np.uint64(32)
            for ties in policies:
                keys = np.where(here.positions < 0, 0, scores | order.of(ties, here))
                best[ties] = _largest(np.concatenate([best[ties], _largest(keys, k)], axis=1), k)
        for ties in policies:
            found[ties].append(np.sort(best[ties], axis=1)[:, ::-1])
    return {ties: order.ranking(ties, np.concatenate(found[ties])) for ties in policies}


@dataclass(frozen=True)
class _Block:
    """Scores of some queries with some of their candidates.

    Attributes:
        rows: the queries.
        column: of the first candidate, in the corpus or in the pools.
        positions: (1 or B, P) in the corpus; -1 behind the end of a pool.
        scores: (B, P).
    """

    rows: range
    column: int
    positions: np.ndarray
    scores: np.ndarray


def _scan_corpus(
    vectors: np.ndarray, documents: np.ndarray, candidates: Candidates, rows: range, block: int
) -> Iterator[_Block]:
    for begin in range(0, len(documents), block):
        scores = _rounded(vectors @ _fixed_point(documents[begin : begin + block]).T)
        yield _Block(rows, begin, np.arange(begin, begin + scores.shape[1])[None], scores)


def _scan_pools(
    vectors: np.ndarray, documents: np.ndarray, candidates: Candidates, rows: range, block: int
) -> Iterator[_Block]:
    """One block: the documents of these pools are read together, the pools are picked from them."""
    assert candidates.pools is not None
    pools = candidates.pools[rows.start : rows.stop]
    distinct = np.unique(np.concatenate(pools))
    scores = np.empty((len(rows), len(distinct)), dtype=np.float32)
    for begin in range(0, len(distinct), block):
        part = documents[distinct[begin : begin + block]]
        scores[:, begin : begin + block] = _rounded(vectors @ _fixed_point(part).T)
    positions = np.full((len(rows), max(map(len, pools))), -1)
    for row, pool in zip(positions, pools, strict=True):
        row[: len(pool)] = pool
    places = np.searchsorted(distinct, np.maximum(positions, distinct[0]))
    yield _Block(rows, 0, positions, np.take_along_axis(scores, places, axis=1))


class _TieOrder:
    """The place of each document among equal scores: the larger number comes first."""

    def __init__(self, candidates: Candidates) -> None:
        ids, grades, self._pools = candidates.ids, candidates.grades, candidates.pools
        self._by_id = np.array(sorted(range(len(ids)), key=ids.__getitem__))
        self._place = np.empty(len(ids), dtype=np.uint64)
        self._place[self._by_id] = np.arange(len(ids))
        levels = sorted({grade for each in grades for grade in each.values()}, reverse=True)
        self._irrelevant = len(levels)  # the level of all other documents
        if len(ids) * (self._irrelevant + 1) > _LOW:
            raise DataError(f"{len(ids)} documents with {len(levels)} grades: too many")
        level_of = {grade: level for level, grade in enumerate(levels)}
        cells = [
            (query, column, level_of[each[position]])
            for query, each in enumerate(grades)
            for position, column in zip(each, self._columns(query, list(each)), strict=True)
        ]
        self._cells = np.array(cells, dtype=np.int64).reshape(-1, 3)  # sorted by query

    def _columns(self, query: int, positions: list[int]) -> list[int]:
        if self._pools is None:
            return positions
        pool = self._pools[query]
        return [int(np.flatnonzero(pool == position)[0]) for position in positions]

    def of(self, ties: TiePolicy, block: _Block) -> np.ndarray:
        """(1 or B, P) below 2^32. What a negative position gets means nothing."""
        if ties == "official":
            columns = np.arange(block.column, block.column + block.positions.shape[1])
            return (_LOW - columns).astype(np.uint64)[None]
        places = self._place[block.positions]
        if ties == "docid":
            return places
        places = places + np.uint64(len(self._place) * self._irrelevant)
        places = np.broadcast_to(places, block.scores.shape).copy()
        begin, end = np.searchsorted(self._cells[:, 0], (block.rows.start, block.rows.stop))
        query, column, level = self._cells[begin:end].T
        column = column - block.column
        here = (column >= 0) & (column < places.shape[1])
        raised = len(self._place) * (self._irrelevant - level[here])
        places[query[here] - block.rows.start, column[here]] -= raised.astype(np.uint64)
        return places

    def ranking(self, ties: TiePolicy, keys: np.ndarray) -> Ranking:
        low = (keys & np.uint64(_LOW)).astype(np.int64)
        if ties != "official":
            positions = self._by_id[low % len(self._by_id)]
        elif self._pools is None:
            positions = _LOW - low
        else:
            positions = np.stack(
                [
                    pool[np.minimum(_LOW - row, len(pool) - 1)]
                    for pool, row in zip(self._pools, low, strict=True)
                ]
            )
        absent = keys == 0
        return Ranking(np.where(absent, -1, positions), np.where(absent, -np.inf, _score(keys)))


def _fixed_point(rows: np.ndarray) -> np.ndarray:
    """Components as whole numbers of steps, in float64."""
    steps = rows.astype(np.float64)
    steps *= _STEPS
    return np.rint(steps, out=steps)


def _rounded(sums: np.ndarray) -> np.ndarray:
    """Sums of products of steps as float32 scores, without negative zeros."""
    return (sums / _STEPS**2).astype(np.float32) + np.float32(0)


def _sortable(scores: np.ndarray) -> np.ndarray:
    """float32 as integers in the same order, in the lower half of uint64; none is 0."""
    bits = scores.view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | _SIGN).astype(np.uint64)


def _score(keys: np.ndarray) -> np.ndarray:
    bits = (keys >> np.uint64(32)).astype(np.uint32)
    return np.where(bits & _SIGN, bits ^ _SIGN, ~bits).view(np.float32)


def _largest(keys: np.ndarray, k: int) -> np.ndarray:
    """The k largest of each row, or all, in any order."""
    if keys.shape[1] <= k:
        return keys
    return np.partition(keys, keys.shape[1] - k, axis=1)[:, -k:]


def chance_hit_rate(num_relevant: Sequence[int] | np.ndarray, corpus_size: int, k: int) -> float:
    """Expected R@k of a random ranking: mean of 1 - C(M - r, k) / C(M, k)."""
    k = min(k, corpus_size)
    total = math.comb(corpus_size, k)
    missed: Mapping[int, float] = {
        int(r): math.comb(corpus_size - int(r), k) / total for r in set(map(int, num_relevant))
    }
    return float(np.mean([1 - missed[int(r)] for r in num_relevant]))
