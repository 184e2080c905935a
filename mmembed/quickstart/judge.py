"""Retrieval tasks x models, by the evaluator: every distinct item is embedded once for each model.

Ties are `pessimistic`: of equal scores, what is not relevant comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmembed.baselines.our_model import OurModel
from mmembed.baselines.stored_vectors import StoredVectors
from mmembed.encoder.embedder import Embedder
from mmembed.evaluation.plan import make_plan
from mmembed.evaluation.ranking import chance_hit_rate
from mmembed.evaluation.results import TaskResult
from mmembed.evaluation.runs import evaluate
from mmembed.tasks import LoadedTask, RetrievalTask, TaskCard

__all__ = ["CUTOFFS", "Judgement", "chance", "judge", "num_items"]

CUTOFFS = (1, 10)


@dataclass(frozen=True)
class Judgement:
    """What one model does on every task, in the order of the tasks."""

    results: Mapping[str, TaskResult]

    def hit_rate(self, title: str, k: int) -> float:
        """R@k: share of the queries with a relevant document among the first k."""
        return self.results[title].metrics["pessimistic"][f"hit@{k}"]


def judge(
    model: Path,
    tasks: Mapping[str, RetrievalTask],
    *,
    options: Mapping[str, Any] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Judgement:
    """Embed the items of all tasks with one model and score them.

    Args:
        options: of `Embedder.from_pretrained`, e.g. the input settings of the trained model.
        on_progress: called with the number of distinct items since the last call.
    """
    with Embedder.from_pretrained(model, device="cpu", **(options or {})) as embedder:
        vectors = StoredVectors(OurModel(embedder))
        return Judgement(evaluate(_loaded(tasks), vectors, on_progress=on_progress))


def num_items(tasks: Mapping[str, RetrievalTask]) -> int:
    """Distinct items that `judge` embeds."""
    return len(make_plan(_loaded(tasks)).items)


def chance(task: RetrievalTask, k: int) -> float:
    """Expected R@k of a random ranking."""
    counts = [
        sum(grade > 0 for grade in task.relevant[query_id].values()) for query_id in task.queries
    ]
    return chance_hit_rate(counts, len(task.corpus), k)


def _loaded(tasks: Mapping[str, RetrievalTask]) -> dict[str, tuple[TaskCard, LoadedTask]]:
    return {
        title: (
            TaskCard(
                name=title,
                modality="",
                group="",
                main_metric=f"hit@{CUTOFFS[-1]}",
                source=task.name,
            ),
            LoadedTask(task),
        )
        for title, task in tasks.items()
    }
