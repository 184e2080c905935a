"""What became of rows and candidates, in numbers that add up over chunks, and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from mmembed.mining.negatives import Mined

__all__ = ["NUM_BINS", "MiningCounts", "describe_mining", "histogram"]

NUM_BINS = 20  # of cosines from -1 to 1


def histogram(scores: Sequence[float] | np.ndarray) -> list[int]:
    """How many cosines are in each of `NUM_BINS` bins of 0.1."""
    bins = np.floor((np.asarray(scores, dtype=np.float64) + 1) / 2 * NUM_BINS).astype(np.int64)
    counts: list[int] = np.bincount(np.clip(bins, 0, NUM_BINS - 1), minlength=NUM_BINS).tolist()
    return counts


@dataclass
class MiningCounts:
    """Of a block of rows.

    Attributes:
        unusable, not_encoded: rows that could not be read, and that the teacher could not encode.
        complete, short, without: rows that got all their negatives, some, none.
        dropped: setting -> rows that it dropped.
        negatives: origin -> documents that were given.
        removed: setting -> hits within the ranks that it refused.
        above_positive: negatives that score above a positive of their row: perhaps false ones.
        positive_histogram, negative_histogram: of scores; see `histogram`.
    """

    num_negatives: int
    rows: int = 0
    unusable: int = 0
    not_encoded: int = 0
    complete: int = 0
    short: int = 0
    without: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    negatives: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    above_positive: int = 0
    positive_histogram: list[int] = field(default_factory=lambda: [0] * NUM_BINS)
    negative_histogram: list[int] = field(default_factory=lambda: [0] * NUM_BINS)

    def add(self, mined: Mined, positive_scores: np.ndarray) -> None:
        self.positive_histogram = _sum(self.positive_histogram, histogram(positive_scores))
        self.removed.update(mined.removed)
        if mined.problem is not None:
            self.dropped[mined.problem] += 1
            return
        count = len(mined.negatives)
        self.complete += count >= self.num_negatives
        self.short += 0 < count < self.num_negatives
        self.without += not count
        scores = [each.score for each in mined.negatives]
        self.negatives.update(each.origin for each in mined.negatives)
        lowest = float(positive_scores.min())
        self.above_positive += sum(score > lowest for score in scores)
        self.negative_histogram = _sum(self.negative_histogram, histogram(scores))

    def as_dict(self) -> dict[str, Any]:
        counts = {each.name: getattr(self, each.name) for each in fields(self)[1:]}
        return {n: dict(v) if isinstance(v, Counter) else v for n, v in counts.items()}


def describe_mining(name: str, counts: Mapping[str, Any]) -> list[str]:
    """Lines for people."""
    kept = counts["complete"] + counts["short"] + counts["without"]
    lines = [
        f"{name}: {kept:,} of {counts['rows']:,} rows; {counts['complete']:,} with all their "
        f"negatives, {counts['short']:,} with some, {counts['without']:,} with none"
    ]
    gone = {
        "not readable": counts["unusable"],
        "not encoded": counts["not_encoded"],
        **counts["dropped"],
    }
    lines += _listed("rows dropped", gone)
    lines += _listed("negatives", counts["negatives"])
    lines += _listed("candidates removed", counts["removed"])
    if counts["above_positive"]:
        lines.append(
            f"  {counts['above_positive']:,} negatives score above a positive of their row"
        )
    for kind in ("positive", "negative"):
        lines += _quantiles(kind, counts[f"{kind}_histogram"])
    return lines


def _listed(what: str, counts: Mapping[str, int]) -> list[str]:
    words = [f"{name} {count:,}" for name, count in counts.items() if count]
    return [f"  {what}: {', '.join(words)}"] if words else []


def _quantiles(kind: str, bins: Sequence[int]) -> list[str]:
    total = sum(bins)
    if not total:
        return []
    edges = np.linspace(-1, 1, NUM_BINS + 1)[1:]
    ends = np.cumsum(bins)
    words = [
        f"{share:.0%} below {edges[int(np.searchsorted(ends, share * total))]:.1f}"
        for share in (0.05, 0.5, 0.95)
    ]
    return [f"  {kind} scores: {', '.join(words)}"]


def _sum(first: Sequence[int], second: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(first, second, strict=True)]
