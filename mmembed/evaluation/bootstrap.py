"""How certain a value is: the bootstrap over the queries of each task.

A replicate draws as many queries as a task has, with replacement, and takes the mean of their
values; a mean over tasks takes each task's replicate. Two runs are compared in the differences of
the same queries. Every task draws from a stream of its own, named by the seed and the task, so a
result depends on no other task and on no order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmembed.errors import DataError
from mmembed.evaluation.metrics import spearman
from mmembed.evaluation.results import TaskResult, TiePolicy
from mmembed.evaluation.significance import LEVEL

__all__ = [
    "NUM_REPLICATES",
    "Interval",
    "correlation_replicates",
    "interval",
    "mean_replicates",
    "p_value",
    "paired_replicates",
    "query_values",
    "random_stream",
    "task_interval",
    "task_replicates",
]

NUM_REPLICATES = 10_000
_CHUNK = 4_000_000  # numbers of a block of replicates


@dataclass(frozen=True)
class Interval:
    """Where the value lies: quantiles of the replicates (percentile bootstrap)."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.low:.1f} to {100 * self.high:.1f}"


def random_stream(task: str, seed: int = 0) -> np.random.Generator:
    """The numbers that a task draws."""
    digest = hashlib.sha256(task.encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def mean_replicates(
    values: np.ndarray, generator: np.random.Generator, num_replicates: int = NUM_REPLICATES
) -> np.ndarray:
    """(N,) values of queries -> (R,) means of N draws with replacement.

    How often each distinct value is drawn is multinomial, so a task of hits and misses costs two
    numbers a replicate, not N.
    """
    distinct, counts = np.unique(values, return_counts=True)
    shares = counts / counts.sum()
    rows = max(1, _CHUNK // len(distinct))
    found = np.empty(num_replicates)
    for begin in range(0, num_replicates, rows):
        end = min(begin + rows, num_replicates)
        drawn = generator.multinomial(len(values), shares, size=end - begin)  # (rows, distinct)
        found[begin:end] = drawn @ distinct / len(values)
    return found


def correlation_replicates(
    sides: Sequence[np.ndarray],
    targets: np.ndarray,
    generator: np.random.Generator,
    num_replicates: int = NUM_REPLICATES,
) -> np.ndarray:
    """Spearman of each of `sides` (S x (N,)) with `targets` (N,) over the same draws -> (S, R).

    A draw in which either side has one value only has no correlation and counts as 0.
    """
    n = len(targets)
    rows = max(1, _CHUNK // n)
    shares = np.full(n, 1 / n)
    found = np.empty((len(sides), num_replicates))
    for begin in range(0, num_replicates, rows):
        end = min(begin + rows, num_replicates)
        drawn = generator.multinomial(n, shares, size=end - begin).astype(np.float64)  # (rows, N)
        ranked = _ranks(targets, drawn)
        for row, side in enumerate(sides):
            found[row, begin:end] = _pearson(_ranks(side, drawn), ranked, drawn)
    return found


def interval(replicates: np.ndarray, level: float = LEVEL) -> Interval:
    """Contains 1 - `level` of the replicates, equally many above and below."""
    low, high = np.quantile(replicates, [level / 2, 1 - level / 2])
    return Interval(float(low), float(high))


def p_value(replicates: np.ndarray, difference: float, num_changed: int) -> float:
    """Two-sided, of no difference: how often replicates lie as far from `difference` as 0 does.

    At least 1 / (R + 1), and at least what an exact test can reach that flips the signs of the
    `num_changed` queries with different values: three queries that all became worse say little,
    although every replicate of them does. Rounding does not tell equal distances apart.
    """
    far = np.abs(replicates - difference) >= abs(difference) - 1e-12
    share = float((1 + far.sum()) / (1 + len(replicates)))
    return max(share, min(1.0, 2.0 ** (1 - num_changed)))


def query_values(result: TaskResult, ties: TiePolicy) -> np.ndarray:
    """(N,) main value of each query, in the order of the file; cosines for pairs.

    Raises:
        DataError: there are no queries, or the value of the task is not theirs.
    """
    if not result.queries:
        raise DataError(f"{result.name}: the results of single queries were not kept")
    values = np.array([query.value[ties] for query in result.queries], dtype=np.float64)
    if not _is_correlation(result):
        found = math.fsum(values) / len(values)
    elif _lacks_targets(result):
        return values
    else:
        found = spearman(values, _targets(result))
    said = result.value(ties)
    if abs(found - said) > 1e-6:
        raise DataError(
            f"{result.name}: queries/ give {found:.6f} and scores/ {said:.6f} under {ties}; the "
            "two files are of different runs, score the task again"
        )
    return values


def task_replicates(
    result: TaskResult,
    ties: TiePolicy = "pessimistic",
    *,
    seed: int = 0,
    num_replicates: int = NUM_REPLICATES,
) -> np.ndarray:
    """(R,) replicates of the main value of a task that was read with its queries.

    Raises:
        DataError: see `query_values`; pairs without their graded similarity.
    """
    generator = random_stream(result.name, seed)
    values = query_values(result, ties)
    if not _is_correlation(result):
        return mean_replicates(values, generator, num_replicates)
    return correlation_replicates([values], _targets(result), generator, num_replicates)[0]


def paired_replicates(
    first: TaskResult,
    second: TaskResult,
    ties: TiePolicy = "pessimistic",
    *,
    seed: int = 0,
    num_replicates: int = NUM_REPLICATES,
) -> np.ndarray:
    """(R,) replicates of second - first over the same draws of queries that both have in order.

    Raises:
        DataError: see `task_replicates`.
    """
    assert [query.id for query in first.queries] == [query.id for query in second.queries]
    generator = random_stream(first.name, seed)
    before, after = query_values(first, ties), query_values(second, ties)
    if not _is_correlation(first):
        return mean_replicates(after - before, generator, num_replicates)
    both = correlation_replicates([before, after], _targets(first), generator, num_replicates)
    return both[1] - both[0]


def task_interval(
    result: TaskResult, ties: TiePolicy = "pessimistic", *, seed: int = 0
) -> Interval | None:
    """95 % interval of the main value; None without queries or graded similarities.

    It speaks of other queries of the same kind, not of another training. It is too narrow for a
    few dozen queries, and has no width where all of them have one value.
    """
    if not result.queries or (_is_correlation(result) and _lacks_targets(result)):
        return None
    return interval(task_replicates(result, ties, seed=seed))


def _is_correlation(result: TaskResult) -> bool:
    return result.card.main_metric == "spearman"


def _lacks_targets(result: TaskResult) -> bool:
    return any(query.target is None for query in result.queries)


def _targets(result: TaskResult) -> np.ndarray:
    if _lacks_targets(result):
        raise DataError(
            f"{result.name}: the graded similarities of its pairs were not kept; score it again"
        )
    return np.array([query.target for query in result.queries], dtype=np.float64)


def _ranks(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """(N,) values, (rows, N) how often each was drawn -> (rows, N) mean rank among the drawn."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # of each distinct value
    counts = np.add.reduceat(drawn[:, order], starts, axis=1)  # (rows, distinct)
    ranks = np.cumsum(counts, axis=1) - (counts - 1) / 2
    lengths = np.diff(np.r_[starts, len(values)])
    found = np.empty_like(drawn)
    found[:, order] = np.repeat(ranks, lengths, axis=1)
    return found


def _pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(rows, N) each -> (rows,) weighted correlation; 0 where one side is constant."""
    total = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / total
    y = y - (weights * y).sum(axis=1, keepdims=True) / total
    product = (weights * x * y).sum(axis=1)
    scale = (weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1)
    return np.where(scale > 0, product / np.sqrt(np.where(scale > 0, scale, 1.0)), 0.0)
