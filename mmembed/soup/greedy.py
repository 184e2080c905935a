"""The greedy soup (Wortsman et al. 2022, arXiv 2203.05482, recipe 1): which members to average.

Members are tried from the best to the worst on a development metric; one is kept if the mean with
it scores at least as well as the mean without it. So the soup is never worse than its best member
on that metric, unlike a mean of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from mmembed.errors import ConfigError

__all__ = ["Greedy", "choose_greedily"]

Score = Callable[[Path], float]


@dataclass(frozen=True)
class Greedy:
    """What was chosen.

    Attributes:
        chosen: positions of the members that are in, in the order in which they came in.
        scores: of every member alone.
        score: of the mean of the chosen ones.
    """

    chosen: tuple[int, ...]
    scores: tuple[float, ...]
    score: float


def choose_greedily(
    members: Sequence[Path],
    score: Score,
    candidate: Callable[[Sequence[int]], AbstractContextManager[Path]],
) -> Greedy:
    """Choose members whose uniform mean scores best.

    Args:
        score: of a model folder; higher is better.
        candidate: the mean of some members as a folder that is gone after the block, so that
            there is one at a time.

    Raises:
        ConfigError: a score that is NaN.
    """
    scores = [_scored(score, member) for member in members]
    order = sorted(range(len(members)), key=lambda number: -scores[number])
    chosen, best = [order[0]], scores[order[0]]
    for number in order[1:]:
        with candidate([*chosen, number]) as folder:
            found = _scored(score, folder)
        if found >= best:
            chosen, best = [*chosen, number], found
    return Greedy(tuple(chosen), tuple(scores), best)


def _scored(score: Score, folder: Path) -> float:
    value = float(score(folder))
    if math.isnan(value):
        raise ConfigError(f"the metric of {folder} is NaN; it must be a number, higher is better")
    return value
