"""From values of data sets to means: group, modality, split and all, each over its data sets.

Every mean is plain: a data set counts once, however many queries it has, and the mean of a
modality is over its data sets, not over the means of its groups. A data set without a result, or
with media missing, leaves the means that contain it empty; asked for partial means, it is left
out and the coverage says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mmembed.evaluation.results import TaskResult, TiePolicy
from mmembed.tasks import TaskCard

__all__ = ["Level", "Mean", "cells", "complete_values", "means", "title_of"]

Level = Literal["group", "modality", "split", "overall"]


@dataclass(frozen=True)
class Mean:
    """A mean over data sets.

    Attributes:
        name: of the group, modality or split; `all` for the overall mean.
        modality: that it belongs to; empty for the overall mean.
        members: the data sets it is over, with and without a result.
        value: None in strict mode when one is lacking, and always when all are.
        num_found: how many of `members` have a complete result.
    """

    level: Level
    modality: str
    name: str
    members: tuple[str, ...]
    value: float | None
    num_found: int

    @property
    def coverage(self) -> str:
        return f"{self.num_found}/{len(self.members)}"

    @property
    def is_complete(self) -> bool:
        return self.num_found == len(self.members)


def title_of(level: str, name: str) -> str:
    """A mean as people read it: `modality image`; a data set and `all` by their names."""
    return name if level in ("task", "overall") else f"{level} {name}"


def complete_values(
    results: Mapping[str, TaskResult], ties: TiePolicy = "pessimistic"
) -> dict[str, float]:
    """The main value of every task of which nothing is missing."""
    return {name: each.value(ties) for name, each in results.items() if not each.is_partial}


def means(
    values: Mapping[str, float], expected: Sequence[TaskCard], *, partial: bool = False
) -> tuple[Mean, ...]:
    """All means over the data sets of a suite; values of others are not looked at.

    In the order of `expected`: for each modality its groups, then itself, then its splits where
    cards tell them apart; the mean over everything last.
    """
    return tuple(
        _mean(level, modality, name, members, values, partial)
        for (level, modality, name), members in cells(expected).items()
    )


def cells(expected: Sequence[TaskCard]) -> dict[tuple[Level, str, str], tuple[str, ...]]:
    """(level, modality, name) of every mean -> the data sets it is over; ordered as `means`."""
    found: dict[tuple[Level, str, str], tuple[str, ...]] = {}
    for modality in dict.fromkeys(card.modality for card in expected):
        cards = [card for card in expected if card.modality == modality]
        for group in dict.fromkeys(card.group for card in cards):
            members = tuple(card.name for card in cards if card.group == group)
            found["group", modality, group] = members
        found["modality", modality, modality] = tuple(card.name for card in cards)
        for split in dict.fromkeys(card.split for card in cards if card.split):
            members = tuple(card.name for card in cards if card.split == split)
            found["split", modality, split] = members
    found["overall", "", "all"] = tuple(card.name for card in expected)
    return found


def _mean(
    level: Level,
    modality: str,
    name: str,
    members: tuple[str, ...],
    values: Mapping[str, float],
    partial: bool,
) -> Mean:
    known = [values[member] for member in members if member in values]
    value = math.fsum(known) / len(known) if known else None
    if len(known) < len(members) and not partial:
        value = None
    return Mean(level, modality, name, members, value, len(known))
