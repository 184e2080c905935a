"""Two runs over the same queries: what differs, and whether queries alone could explain it.

    results.read_results(A), results.read_results(B) -> compare_runs -> Comparison -> tables

Differences are second - first. Queries are resampled in pairs within each task (`bootstrap`), the
means over tasks follow `aggregation`. p-values are adjusted by Holm's rule for all rows at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmembed.errors import DataError
from mmembed.evaluation.aggregation import cells, title_of
from mmembed.evaluation.bootstrap import (
    NUM_REPLICATES,
    Interval,
    interval,
    p_value,
    paired_replicates,
    query_values,
)
from mmembed.evaluation.results import RunResults, TaskResult, TiePolicy
from mmembed.evaluation.significance import LEVEL, holm

__all__ = ["ComparedRow", "Comparison", "compare_runs", "differences_of_tasks"]

_SHOWN = 5


@dataclass(frozen=True)
class ComparedRow:
    """A task or a mean of both runs. Values are those of results: shares, not per cent.

    Attributes:
        level: `task`, or one of `aggregation.Level`.
        difference: second - first; `interval` is its 95 % interval, unadjusted.
        adjusted_p: Holm's, over all rows of the comparison.
    """

    level: str
    modality: str
    name: str
    num_tasks: int
    num_queries: int
    first: float
    second: float
    difference: float
    interval: Interval
    p: float
    adjusted_p: float = 1.0

    @property
    def verdict(self) -> str:
        if self.adjusted_p > LEVEL:
            return "no difference seen"
        return "better" if self.difference > 0 else "worse"

    @property
    def title(self) -> str:
        return title_of(self.level, self.name)

    def is_regression(self, tolerance: float = 0.0) -> bool:
        """Significantly worse, by more than `tolerance` (a share)."""
        return self.verdict == "worse" and -self.difference > tolerance + 1e-12


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other.

    Attributes:
        names: of the two models and their folders.
        rows: tasks, then means.
        notes: what was left out or differs, for people.
    """

    ties: TiePolicy
    names: tuple[str, str]
    rows: tuple[ComparedRow, ...]
    notes: tuple[str, ...] = ()

    def regressions(self, tolerance: float = 0.0) -> tuple[ComparedRow, ...]:
        return tuple(row for row in self.rows if row.is_regression(tolerance))


def compare_runs(
    first: RunResults,
    second: RunResults,
    *,
    ties: TiePolicy = "pessimistic",
    partial: bool = False,
    seed: int = 0,
    num_replicates: int = NUM_REPLICATES,
) -> Comparison:
    """Compare two runs that were read with their queries.

    Args:
        partial: compare the tasks that both have, and tasks of which both lack the same media.

    Raises:
        DataError: the runs do not judge the same; names everything that differs.
    """
    names, notes = _common(first, second, partial)
    problems = [
        f"{name}: {what}"
        for name in names
        for what in differences_of_tasks(first.tasks[name], second.tasks[name], partial=partial)
    ]
    if problems:
        raise DataError(
            "the two runs do not judge the same, so their difference would not be that of the "
            "models:" + "".join(f"\n  {problem}" for problem in problems)
        )
    rows = _rows([(first.tasks[n], second.tasks[n]) for n in names], ties, seed, num_replicates)
    adjusted = holm([row.p for row in rows])
    return Comparison(
        ties,
        (_name(first), _name(second)),
        tuple(replace(row, adjusted_p=p) for row, (p, _) in zip(rows, adjusted, strict=True)),
        (*notes, *_differing_settings(first, second)),
    )


def _rows(
    pairs: Sequence[tuple[TaskResult, TaskResult]], ties: TiePolicy, seed: int, num: int
) -> list[ComparedRow]:
    replicates: dict[str, np.ndarray] = {}
    changed: dict[str, int] = {}
    rows: dict[str, ComparedRow] = {}
    for one, other in pairs:
        drawn = paired_replicates(one, other, ties, seed=seed, num_replicates=num)
        card, before, after = one.card, one.value(ties), other.value(ties)
        replicates[card.name] = drawn
        changed[card.name] = int((query_values(one, ties) != query_values(other, ties)).sum())
        rows[card.name] = ComparedRow(
            "task",
            card.modality,
            card.name,
            1,
            len(one.queries),
            before,
            after,
            after - before,
            interval(drawn),
            p_value(drawn, after - before, changed[card.name]),
        )
    means = []
    for (level, modality, name), members in cells([one.card for one, _ in pairs]).items():
        inside = [rows[member] for member in members]
        drawn = np.mean([replicates[member] for member in members], axis=0)
        before, after = (
            math.fsum(getattr(row, side) for row in inside) / len(inside)
            for side in ("first", "second")
        )
        means.append(
            ComparedRow(
                level,
                modality,
                name,
                len(members),
                sum(row.num_queries for row in inside),
                before,
                after,
                after - before,
                interval(drawn),
                p_value(drawn, after - before, sum(changed[member] for member in members)),
            )
        )
    return [*rows.values(), *means]


def differences_of_tasks(
    first: TaskResult, second: TaskResult, *, partial: bool = False
) -> list[str]:
    """Why two results of one name are not of the same test; empty if they are."""
    found = []
    for field in ("main_metric", "source", "revision", "modality", "group", "split", "has_pools"):
        one, other = getattr(first.card, field), getattr(second.card, field)
        if one != other:
            found.append(f"{field} is {one!r} and {other!r}")
    if first.num_documents != second.num_documents:
        found.append(f"{first.num_documents:,} and {second.num_documents:,} documents")
    if first.missing != second.missing:
        found.append("other media are missing")
    elif first.is_partial and not partial:
        found.append(f"{len(first.missing)} media are missing in both; --partial compares the rest")
    ids = [[query.id for query in result.queries] for result in (first, second)]
    if ids[0] != ids[1]:
        alone = [sorted(set(ids[side]) - set(ids[1 - side])) for side in (0, 1)]
        for side, word in ((0, "first"), (1, "second")):
            if alone[side]:
                found.append(f"queries only in the {word}: {_some(alone[side])}")
        if not any(alone):
            found.append("the same queries in another order")
    return found


def _common(
    first: RunResults, second: RunResults, partial: bool
) -> tuple[list[str], tuple[str, ...]]:
    """The tasks to compare, and what is left out."""
    notes = []
    for run, other, word in ((first, second, "first"), (second, first, "second")):
        alone = [name for name in run.tasks if name not in other.tasks]
        if alone:
            notes.append(f"tasks only in the {word} run, {run.folder}: {_some(alone)}")
    if notes and not partial:
        raise DataError(
            f"the two runs have different tasks (--partial compares those of both): "
            f"{'; '.join(notes)}"
        )
    names = [name for name in first.tasks if name in second.tasks]
    if not names:
        raise DataError(f"{first.folder} and {second.folder} have no task in common")
    return names, tuple(notes)


def _differing_settings(first: RunResults, second: RunResults) -> tuple[str, ...]:
    """Settings beside the model that differ: part of the difference may be theirs."""
    one, other = (run.record.get("profile") for run in (first, second))
    if one == other:
        return ()
    names = " and ".join(run.profile_name for run in (first, second))
    return (f"the runs word their items differently: prompts of profiles {names}",)


def _name(run: RunResults) -> str:
    model = run.record.get("model")
    return str(run.folder) if model is None else f"{model} in {run.folder}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
