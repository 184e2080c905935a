"""Paired differences over seeds: Student's t and its intervals.

The unit is the seed: an arm and its reference start from the same weights and read the same rows
in the same order, so the difference of one seed is one observation. Queries are no unit here: a
thousand of them judge one training run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mmembed.evaluation.significance import LEVEL

__all__ = ["Difference", "paired", "t_probability", "t_quantile"]


@dataclass(frozen=True)
class Difference:
    """Differences of paired runs.

    Attributes:
        values: one for each seed.
        mean, sd: of the values; sd with n - 1.
        p: two-sided, of the hypothesis that the mean is 0.
    """

    values: tuple[float, ...]
    mean: float
    sd: float
    p: float

    @property
    def degrees(self) -> int:
        return len(self.values) - 1

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Where the mean lies with probability 1 - `level`."""
        half = t_quantile(1 - level, self.degrees) * self.sd / math.sqrt(len(self.values))
        return self.mean - half, self.mean + half


def paired(values: Sequence[float]) -> Difference | None:
    """The paired t-test of two or more differences; None of fewer, which have no spread."""
    if len(values) < 2:
        return None
    n = len(values)
    mean = math.fsum(values) / n
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    if sd == 0:  # an arm that changes nothing differs by exactly 0 in every seed
        p = 1.0 if mean == 0 else 0.0
    else:
        p = 1 - t_probability(abs(mean) / (sd / math.sqrt(n)), n - 1)
    return Difference(tuple(map(float, values)), mean, sd, max(p, 0.0))


def t_probability(t: float, degrees: int) -> float:
    """P(|T| <= t) of Student's distribution (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    assert degrees >= 1 and t >= 0
    angle = math.atan2(t, math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term, total = (cosine, cosine) if odd else (1.0, 1.0)
    if degrees == 1:
        total = 0.0
    for index in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine * cosine * (index - 1) / index
        total += term
    return (angle + sine * total) * 2 / math.pi if odd else sine * total


def t_quantile(confidence: float, degrees: int) -> float:
    """The t with P(|T| <= t) = `confidence`, by bisection."""
    assert 0 <= confidence < 1
    low, high = 0.0, 1.0
    while t_probability(high, degrees) < confidence:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        if t_probability(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return high
