"""Many comparisons at once: the level of a verdict, and Holm's rule."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["LEVEL", "holm"]

LEVEL = 0.05  # probability of an error of the first kind: 1 - the confidence of intervals


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[tuple[float, float]]:
    """Holm's step-down rule: (adjusted p, level of its interval) of each p-value.

    With probability 1 - `level` no true hypothesis is rejected, i.e. has an adjusted p at or below
    `level`. An interval of the returned level excludes 0 for exactly the rejected ones: it is the
    level at which the rule tests this p-value, or, behind the first that is kept, that one's.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted: list[tuple[float, float]] = [(1.0, level)] * len(p_values)
    largest, stopped = 0.0, False
    tested = level
    for place, index in enumerate(order):
        left = len(order) - place
        if not stopped:
            tested = level / left
        largest = max(largest, min(1.0, left * p_values[index]))
        stopped = stopped or p_values[index] > tested
        adjusted[index] = (largest, tested)
    return adjusted
