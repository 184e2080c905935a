"""A finished run as the numbers of a report: values with intervals, means, flags.

`results.read_results` -> `summarise` -> `Summary` -> `tables.py` (Markdown, CSV, JSON) and
`run_page.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmembed.evaluation.aggregation import Mean, complete_values, means
from mmembed.evaluation.bootstrap import Interval, task_interval
from mmembed.evaluation.reference_scores import (
    Delta,
    list_references,
    load_references,
    matches,
    page_sets,
)
from mmembed.evaluation.results import RunResults, TaskResult, TiePolicy
from mmembed.evaluation.side_by_side import SideBySide, side_by_side
from mmembed.tasks import TaskCard

if TYPE_CHECKING:
    from mmembed.evaluation.sweeps import Sweep

__all__ = ["TIE_LIMIT", "Summary", "TaskLine", "summarise"]

TIE_LIMIT = 0.001  # |official - pessimistic|; more is flagged: 0.1 point
_SHOWN = 8


@dataclass(frozen=True)
class TaskLine:
    """One task. `interval` is None where single queries were not kept."""

    card: TaskCard
    value: float
    official: float
    pessimistic: float
    interval: Interval | None
    num_queries: int
    num_documents: int
    tie_affected: int
    num_missing: int


@dataclass(frozen=True)
class Summary:
    """What a report shows.

    Attributes:
        name: of the model.
        lines: in the order of the suite, tasks of no suite last.
        means: of complete data sets; with a value where all are there, or `partial`.
        absent: data sets of the suite without a result.
        flags: what a reader must know before using a number.
        page_sets: versions of data sets, where some have several.
        beside: other runs of the suite.
        record: of the run.
    """

    name: str
    suite: str
    profile: str
    ties: TiePolicy
    partial: bool
    lines: tuple[TaskLine, ...]
    means: tuple[Mean, ...]
    absent: tuple[str, ...]
    flags: tuple[str, ...]
    page_sets: tuple[str, ...] = ()
    deltas: tuple[Delta, ...] = ()
    sweep: Sweep | None = None
    beside: SideBySide | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """What was judged and how, in one sentence."""
        pages = f", {' and '.join(self.page_sets)} page sets" if self.page_sets else ""
        return (
            f"Suite {self.suite}, {len(self.lines)} data sets{pages}; prompts of profile "
            f"{self.profile}; ties {self.ties}; values in per cent."
        )

    @property
    def match(self) -> str | None:
        """Whether the run matches the one row it was set against; None for several or no rows."""
        rows = {delta.row.title for delta in self.deltas}
        if len(rows) != 1:
            return None
        title, found = rows.pop(), matches(self.deltas)
        if found is None:
            return f"Not every modality mean can be set against {title}."
        words = "matches" if found else "does not match"
        return f"The run {words} {title}: a match is within 0.5 points on every modality mean."


def summarise(
    run: RunResults,
    expected: Sequence[TaskCard],
    *,
    ties: TiePolicy = "pessimistic",
    partial: bool = False,
    deltas: Sequence[Delta] = (),
    sweep: Sweep | None = None,
    others: Sequence[RunResults] = (),
) -> Summary:
    """Everything a report says about a run.

    Args:
        others: runs to show beside it.
        expected: the data sets of the suite, whether the run has them or not.
    """
    cards = {card.name: card for card in expected}
    extra = [name for name in run.tasks if name not in cards]
    order = [name for name in cards if name in run.tasks] + extra
    absent = tuple(name for name in cards if name not in run.tasks)
    return Summary(
        name=str(run.record.get("model") or run.folder.name),
        suite=str(run.record.get("suite", "unknown")),
        profile=run.profile_name,
        ties=ties,
        partial=partial,
        lines=tuple(_line(run.tasks[name], ties) for name in order),
        means=means(complete_values(run.tasks, ties), expected, partial=partial),
        absent=absent,
        flags=tuple(_flags(run, absent, extra, partial)),
        page_sets=_page_sets(expected),
        deltas=tuple(deltas),
        sweep=sweep,
        beside=side_by_side(run, others, expected, ties=ties, partial=partial) if others else None,
        record=run.record,
    )


def _line(result: TaskResult, ties: TiePolicy) -> TaskLine:
    return TaskLine(
        card=result.card,
        value=result.value(ties),
        official=result.value("official"),
        pessimistic=result.value("pessimistic"),
        interval=task_interval(result, ties),
        num_queries=result.num_queries,
        num_documents=result.num_documents,
        tie_affected=result.tie_affected,
        num_missing=len(result.missing),
    )


def _flags(
    run: RunResults, absent: Sequence[str], extra: Sequence[str], partial: bool
) -> list[str]:
    found = []
    if not run.record:
        found.append(
            "No run.json: the run has not ended, or only its vectors were scored. What is there "
            "may not be all, and nothing says which model made it."
        )
    if run.unrecorded:
        found.append(
            f"Not yet in run.json, left out: {_some(run.unrecorded)}. A run is going on, or was "
            "broken off; run it again."
        )
    if run.record.get("subset") is not None:
        calibration = run.record.get("calibration")
        state = "uncalibrated" if not isinstance(calibration, Mapping) else "calibrated"
        found.append(
            f"A {state} subset of each task, not the benchmark: fewer distractors make other, "
            "mostly higher numbers."
            + ("" if state == "calibrated" else " How they relate to full runs is not known.")
        )
    if absent:
        found.append(f"No result for {len(absent)} data sets: {_some(absent)}.")
    for name, result in run.tasks.items():
        if result.is_partial:
            found.append(
                f"{name} is partial: {len(result.missing)} media are missing; it is in no mean."
            )
    if partial and (absent or any(result.is_partial for result in run.tasks.values())):
        found.append("Means are over the complete data sets only; their coverage is beside them.")
    for name, result in run.tasks.items():
        apart = result.value("official") - result.value("pessimistic")
        if abs(apart) > TIE_LIMIT + 1e-12:
            found.append(
                f"{name}: ties decide {100 * abs(apart):.2f} points ({result.tie_affected} "
                f"queries): {100 * result.value('official'):.2f} official, "
                f"{100 * result.value('pessimistic'):.2f} pessimistic."
            )
    if extra:
        found.append(f"Not of the suite, in no mean: {_some(extra)}.")
    return found


def _page_sets(expected: Sequence[TaskCard]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for name in list_references():
        references, _ = load_references(name)
        found |= dict.fromkeys(page_sets(references, expected))
    return tuple(found)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
