"""From finished runs to differences and verdicts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from mmembed.ablation.judge import METRICS
from mmembed.ablation.plan import MEMBERS, Ablation, Comparison, Measure, Run
from mmembed.ablation.runs import Record
from mmembed.ablation.statistics import Difference, paired, t_quantile
from mmembed.evaluation.significance import LEVEL, holm

__all__ = [
    "Noise",
    "Outcome",
    "Records",
    "compare",
    "mean_training",
    "measures",
    "noise",
    "verdicts",
]

Records = Mapping[Run, Record]


@dataclass(frozen=True)
class Outcome:
    """One comparison in one measure; differences are arm minus reference, above 0 = better.

    Attributes:
        mean: of the arm over its seeds; None when no seed gave a model.
        difference: over the seeds of both; None below two.
        diverged: seeds in which the arm's training did.
        adjusted_p, level: Holm's, see `verdicts`; else None, 0.05.
    """

    comparison: Comparison
    mean: float | None
    difference: Difference | None
    diverged: int
    adjusted_p: float | None = None
    level: float = LEVEL

    @property
    def verdict(self) -> str:
        """What may be said of the primary measure."""
        if self.diverged:
            return f"diverged with {self.diverged} seeds"
        if self.difference is None or self.adjusted_p is None:
            return "too few seeds"
        if self.adjusted_p > LEVEL:
            return "no difference seen"
        return "better" if self.difference.mean > 0 else "worse"


@dataclass(frozen=True)
class Noise:
    """How much a measure of the control varies on a problem, and what that leaves visible.

    Attributes:
        mean, sd: of the control over seeds.
        paired_sd: median over the comparisons of the sd of their differences.
        visible: half of the 95 % interval of such a difference; `visible_adjusted`: at the level
            that Holm's rule gives the smallest of all p-values.
    """

    problem: str
    measure: Measure
    num_seeds: int
    mean: float
    sd: float
    paired_sd: float
    visible: float
    visible_adjusted: float


def measures(plan: Ablation, problem: str) -> list[Measure]:
    """The primary one of a problem, then every other metric of every task."""
    primary = plan.primary_of(problem)
    others = [Measure(task=task.title, metric=metric) for task in plan.tasks for metric in METRICS]
    return [primary, *(measure for measure in others if measure != primary)]


def compare(plan: Ablation, records: Records, measure: Measure, problem: str) -> list[Outcome]:
    """The comparisons on one problem in one measure, unadjusted."""
    return [
        _outcome(plan, records, measure, each)
        for each in plan.comparisons()
        if each.problem == problem
    ]


def verdicts(plan: Ablation, records: Records) -> list[Outcome]:
    """Every comparison in the primary measure of its problem, adjusted for all of them."""
    outcomes = [
        _outcome(plan, records, plan.primary_of(each.problem), each) for each in plan.comparisons()
    ]
    tested = [number for number, each in enumerate(outcomes) if each.difference is not None]
    adjusted = holm([_p(outcomes[number]) for number in tested])
    for number, (p, level) in zip(tested, adjusted, strict=True):
        outcomes[number] = replace(outcomes[number], adjusted_p=p, level=level)
    return outcomes


def noise(plan: Ablation, records: Records) -> list[Noise]:
    """One row for each problem of the control and each measure, where there are two seeds."""
    rows = []
    comparisons = plan.comparisons()
    for problem in plan.problems_of(plan.arm(plan.control)):
        for measure in measures(plan, problem):
            outcomes = compare(plan, records, measure, problem)
            runs = [Run(problem, plan.control, seed) for seed in plan.seeds]
            values = [value for run in runs if (value := _value(records, run, measure)) is not None]
            spreads = [each.difference.sd for each in outcomes if each.difference is not None]
            n = len(values)
            if n < 2 or not spreads:
                continue
            paired_sd = statistics.median(spreads)
            half = [
                t_quantile(1 - level, n - 1) * paired_sd / math.sqrt(n)
                for level in (LEVEL, LEVEL / len(comparisons))
            ]
            mean, sd = statistics.fmean(values), statistics.stdev(values)
            rows.append(Noise(problem, measure, n, mean, sd, paired_sd, *half))
    return rows


def _outcome(plan: Ablation, records: Records, measure: Measure, comparison: Comparison) -> Outcome:
    values, differences, diverged = [], [], 0
    for seed in plan.seeds:
        run = Run(comparison.problem, comparison.arm, seed)
        if run in records and records[run].scores is None:
            diverged += 1
        value = _value(records, run, measure)
        if comparison.against == MEMBERS:
            reference = _value(records, run, measure, members=True)
        else:
            reference = _value(records, replace(run, arm=comparison.against), measure)
        if value is not None:
            values.append(value)
            if reference is not None:
                differences.append(value - reference)
    mean = statistics.fmean(values) if values else None
    return Outcome(comparison, mean, paired(differences), diverged)


def _value(records: Records, run: Run, measure: Measure, *, members: bool = False) -> float | None:
    record = records.get(run)
    scores = None if record is None else record.members if members else record.scores
    return None if scores is None else scores[measure.task][measure.metric]


def _p(outcome: Outcome) -> float:
    assert outcome.difference is not None
    return outcome.difference.p


def mean_training(records: Records, runs: Iterable[Run], name: str) -> float | None:
    """The mean over runs of a training metric that all of them have."""
    found = [records[run].training.get(name) for run in runs if run in records]
    known = [value for value in found if value is not None]
    return statistics.fmean(known) if known else None
