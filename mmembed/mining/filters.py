"""Which rows and positives of weak pairs are kept: pure functions over a teacher's scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmembed.config.mining import FilterConfig

__all__ = ["FilterBounds", "Verdict", "filter_bounds", "judge"]


@dataclass(frozen=True)
class FilterBounds:
    """What the scores of a whole data set decide; None: off.

    Attributes:
        positive: below which positives go.
        row: below which the best positive of a row drops the row.
    """

    positive: float | None = None
    row: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What becomes of a row.

    Attributes:
        problem: the setting that drops it; None: it is kept.
        positives: positions of those that stay, in their new order.
        rank: of the best positive among its query's nearest documents; None where nobody asked,
            or where it is behind all that were looked at.
        pseudo_positive: document that becomes the first positive.
    """

    problem: str | None
    positives: tuple[int, ...]
    rank: int | None = None
    pseudo_positive: int | None = None


def filter_bounds(
    scores: np.ndarray, best_scores: np.ndarray, config: FilterConfig
) -> FilterBounds:
    """Bounds of a data set.

    Args:
        scores: of all its positives.
        best_scores: of the best positive of each row.
    """
    positive = row = None
    if config.min_positive_percentile is not None and len(scores):
        positive = float(np.percentile(scores.astype(np.float64), config.min_positive_percentile))
    count = int(len(best_scores) * config.lowest / 100)
    if count:  # that many rows go, and those that score the same as the first that stays do not
        row = float(np.partition(best_scores, count)[count] if count < len(best_scores) else 2.0)
    return FilterBounds(positive, row)


def judge(
    positive_scores: np.ndarray,
    config: FilterConfig,
    *,
    bounds: FilterBounds,
    is_duplicate: bool,
    hits: np.ndarray,
    hit_scores: np.ndarray,
) -> Verdict:
    """Ask all rules of one row, in the order of the settings.

    Args:
        positive_scores: (P,) of its positives.
        hits, hit_scores: (K,) nearest documents that are no positives, best first; may be empty
            where no setting asks for them.
    """
    scores = positive_scores.astype(np.float64)
    kept = np.ones(len(scores), dtype=bool)
    problem = "duplicates" if config.duplicates and is_duplicate else None
    for name, bound in (
        ("min_positive", config.min_positive),
        ("min_positive_percentile", bounds.positive),
    ):
        if bound is not None:
            kept &= scores >= bound
            problem = problem or (None if kept.any() else name)
    best = float(scores.max())
    above = int((hit_scores > best).sum())
    if problem is None and config.min_score is not None and not best > config.min_score:
        problem = "min_score"
    if problem is None and bounds.row is not None and best < bounds.row:
        problem = "lowest"
    if problem is None and config.top_k is not None and above >= config.top_k:
        problem = "top_k"
    order = np.flatnonzero(kept)
    if config.best_first:
        order = order[np.argsort(-scores[order], kind="stable")]
    pseudo = None
    if config.pseudo_positive is not None and len(hits):
        if hit_scores[0] > best + config.pseudo_positive:
            pseudo = int(hits[0])
    rank = above + 1 if above < len(hits) else None
    return Verdict(problem, tuple(order.tolist()), rank, pseudo)
