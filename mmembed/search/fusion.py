"""One ranking of several whose scores cannot be compared."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["reciprocal_rank_fusion"]

_CONSTANT = 60  # Cormack, Clarke and Buettcher, SIGIR 2009


def reciprocal_rank_fusion(rankings: Iterable[Iterable[str]]) -> list[tuple[str, float]]:
    """(id, sum over the rankings of 1 / (60 + rank)), best first; of equal sums the smaller id."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, name in enumerate(ranking, start=1):
            scores[name] = scores.get(name, 0.0) + 1 / (_CONSTANT + rank)
    return sorted(scores.items(), key=lambda found: (-found[1], found[0]))
