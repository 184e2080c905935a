"""From the hits of a query to its hard negatives: pure functions over scores.

A hit is known by its rank, from 1, among the documents that are no positive of the row.
`relative_margin` and `absolute_margin` are TopK-PercPos and TopK-MarginPos of Moreira et al. 2024
(NV-Retriever).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmembed.config.mining import MiningConfig

__all__ = ["REASONS", "Bounds", "Selection", "bounds_of", "row_problem", "select"]

# Why a hit within the ranks is not taken; the first that holds is counted.
REASONS = (
    "min_score",
    "max_score",
    "absolute_margin",
    "relative_margin",
    "max_percentile",
    "max_similarity",
    "max_query_similarity",
)


@dataclass(frozen=True)
class Bounds:
    """What the positive scores of a whole data set decide; None: off.

    Attributes:
        ceiling: of negatives.
        floor: of the best positive of a row.
    """

    ceiling: float | None = None
    floor: float | None = None


@dataclass(frozen=True)
class Selection:
    """What is taken of the hits.

    Attributes:
        taken: (n,) positions among the hits, in the order of their ranks.
        removed: reason -> number of hits.
    """

    taken: np.ndarray
    removed: Mapping[str, int]


def bounds_of(positive_scores: np.ndarray, config: MiningConfig) -> Bounds:
    """Percentiles, linearly interpolated, of the scores of all positives of a data set."""

    def at(percentile: float | None) -> float | None:
        if percentile is None or not len(positive_scores):
            return None
        return float(np.percentile(positive_scores.astype(np.float64), percentile))

    return Bounds(at(config.max_percentile), at(config.min_positive_percentile))


def row_problem(
    positive_scores: np.ndarray, hit_scores: np.ndarray, config: MiningConfig, bounds: Bounds
) -> str | None:
    """Why a row is dropped: the name of the setting that it breaks."""
    best = float(positive_scores.max())
    if config.min_positive is not None and not best > config.min_positive:
        return "min_positive"
    if bounds.floor is not None and not best >= bounds.floor:
        return "min_positive_percentile"
    rank = config.max_positive_rank
    if rank is not None and len(hit_scores) >= rank and best < hit_scores[rank - 1]:
        return "max_positive_rank"
    return None


def select(
    hit_scores: np.ndarray,
    positive_scores: np.ndarray,
    config: MiningConfig,
    *,
    bounds: Bounds,
    similarity: np.ndarray | None,
    wanted: int,
    rng: np.random.Generator,
    query_similarity: np.ndarray | None = None,
) -> Selection:
    """Choose among the hits of one query.

    Args:
        hit_scores: (K,) best first, without positives.
        positive_scores: (P,) of the row.
        similarity: (K,) cosine of each hit to the nearest positive; None where it is not asked.
        wanted: how many at most.
        query_similarity: (K,) cosine of the query to the nearest one that has the hit as positive.
    """
    first, last = config.ranks
    scores = hit_scores[first - 1 : last].astype(np.float64)
    broken = _broken(scores, positive_scores.astype(np.float64), config, bounds)
    for name, cosine in (
        ("max_similarity", similarity),
        ("max_query_similarity", query_similarity),
    ):
        bound = getattr(config, name)
        if bound is not None and cosine is not None:
            broken[name] = cosine[first - 1 : last] > bound
    refused = np.zeros(len(scores), dtype=bool)
    removed: Counter[str] = Counter()
    for reason in REASONS:
        if reason in broken:
            removed[reason] = int((broken[reason] & ~refused).sum())
            refused |= broken[reason]
    passed = np.flatnonzero(~refused)
    if config.sampling == "random" and len(passed) > wanted:
        passed = rng.permutation(passed)
    return Selection(np.sort(passed[:wanted]) + first - 1, removed)


def _broken(
    scores: np.ndarray,
    positive_scores: np.ndarray,
    config: MiningConfig,
    bounds: Bounds,
) -> dict[str, np.ndarray]:
    """Rule -> which scores break it, for the rules that are on."""
    positive = float(getattr(positive_scores, config.positive)())
    broken: dict[str, np.ndarray] = {}
    if config.min_score is not None:
        broken["min_score"] = scores < config.min_score
    if config.max_score is not None:
        broken["max_score"] = scores > config.max_score
    if config.absolute_margin is not None:
        broken["absolute_margin"] = scores >= positive - config.absolute_margin
    if config.relative_margin is not None:  # below a positive of negative cosine too
        broken["relative_margin"] = scores >= positive - config.relative_margin * abs(positive)
    if bounds.ceiling is not None:
        broken["max_percentile"] = scores > bounds.ceiling
    return broken
