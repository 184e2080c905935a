"""Several models on one suite in one table: `mmembed eval report --beside`.

Whether a difference is more than chance is the question of `comparison.py`; here are values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmembed.evaluation.aggregation import complete_values, means, title_of
from mmembed.evaluation.results import RunResults, TaskResult, TiePolicy
from mmembed.tasks import TaskCard

__all__ = ["SideBySide", "side_by_side"]


@dataclass(frozen=True)
class SideBySide:
    """Values of runs.

    Attributes:
        names: of the models, the run that is reported first.
        rows: title and the value of each run: means, then data sets. None where a run has no
            complete result over the same queries and documents.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


def side_by_side(
    run: RunResults,
    others: Sequence[RunResults],
    expected: Sequence[TaskCard],
    *,
    ties: TiePolicy = "pessimistic",
    partial: bool = False,
) -> SideBySide:
    """Set other runs beside one.

    Args:
        expected: the data sets of the suite.
    """
    runs = [run, *others]
    values = [
        complete_values(
            {
                name: result
                for name, result in each.tasks.items()
                if name in run.tasks and _same_data(run.tasks[name], result)
            },
            ties,
        )
        for each in runs
    ]
    columns = [means(each, expected, partial=partial) for each in values]
    rows = [
        (title_of(cells[0].level, cells[0].name), tuple(each.value for each in cells))
        for cells in zip(*columns, strict=True)
    ]
    rows += [
        (card.name, tuple(each.get(card.name) for each in values))
        for card in expected
        if card.name in run.tasks
    ]
    return SideBySide(_names(runs), tuple(rows))


def _same_data(first: TaskResult, second: TaskResult) -> bool:
    """Of another size, source or metric, equal names are different tasks."""
    fields = ("source", "revision", "main_metric", "has_pools")
    return all(getattr(first.card, name) == getattr(second.card, name) for name in fields) and (
        (first.num_queries, first.num_documents) == (second.num_queries, second.num_documents)
    )


def _names(runs: Sequence[RunResults]) -> tuple[str, ...]:
    """The models; where two runs are of one model, the folders of the runs."""
    models = [str(run.record.get("model") or run.folder.name) for run in runs]
    return tuple(
        f"{model} ({run.folder.name})" if models.count(model) > 1 else model
        for model, run in zip(models, runs, strict=True)
    )
