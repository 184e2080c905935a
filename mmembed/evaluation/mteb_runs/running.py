"""Run a model on tasks of mteb and read its scores. mteb's own result files are the record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmembed.evaluation.mteb_runs.library import load_mteb

__all__ = ["MtebScore", "mean_scores", "run_tasks"]


@dataclass(frozen=True)
class MtebScore:
    """One task.

    Attributes:
        value: of the main score, mean over splits and subsets; None when it failed.
        error: what went wrong.
    """

    task: str
    type: str
    main_score: str
    value: float | None
    error: str = ""


def run_tasks(
    model: Any,
    tasks: Iterable[Any],
    output: Path,
    *,
    again: bool = False,
    stop_on_error: bool = False,
    num_proc: int | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> list[MtebScore]:
    """Run tasks one by one; those with a result under `output` only read it.

    Results are `output/results/<model>/<revision>/experiments/<settings>/<task>.json`.

    Args:
        again: run them although they have results.
        stop_on_error: raise the error of a task instead of going on with the next.
        num_proc: processes that mteb loads and maps data with.
        on_progress: called with the name of the task that begins.
    """
    mteb = load_mteb()
    cache = mteb.ResultCache(output)
    scores = []
    for task in tasks:
        metadata = task.metadata
        if on_progress:
            on_progress(metadata.name)
        found = mteb.evaluate(
            model,
            task,
            cache=cache,
            co2_tracker=False,
            raise_error=stop_on_error,
            encode_kwargs={"batch_size": 64, "show_progress_bar": False},
            overwrite_strategy="always" if again else "only-missing",
            show_progress_bar=False,
            num_proc=num_proc,
        )
        value, error = None, ""
        if found.task_results:
            value = float(found.task_results[0].get_score())
        for failure in found.exceptions or ():
            error = str(failure.exception)
        scores.append(MtebScore(metadata.name, metadata.type, metadata.main_score, value, error))
    return scores


def mean_scores(scores: Sequence[MtebScore]) -> Mapping[str, float | None]:
    """`Mean (Task)` and `Mean (TaskType)`, as leaderboards print them; None with a failed task."""
    by_type: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        if score.value is None:
            return {"Mean (Task)": None, "Mean (TaskType)": None}
        by_type[score.type].append(score.value)
    if not by_type:
        return {}
    values = [value for group in by_type.values() for value in group]
    types = [sum(group) / len(group) for group in by_type.values()]
    return {"Mean (Task)": sum(values) / len(values), "Mean (TaskType)": sum(types) / len(types)}
