"""Retrieval tasks x models: every distinct item is embedded once for each model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.encoder.embedder import Embedder
from mmembed.evaluation.ranking import RankedTask, chance_hit_rate, hit_rate, rank
from mmembed.tasks import RetrievalTask
from mmembed.types import MultimodalInput, Role

__all__ = ["CUTOFFS", "Judgement", "judge"]

CUTOFFS = (1, 10)


@dataclass(frozen=True)
class Judgement:
    """What one model does on every task, in the order of the tasks."""

    ranked: Mapping[str, RankedTask]

    def hit_rate(self, title: str, k: int) -> float:
        return hit_rate(self.ranked[title], k)

    def chance(self, title: str, k: int) -> float:
        ranked = self.ranked[title]
        return chance_hit_rate(ranked.num_relevant, ranked.corpus_size, k)


def judge(
    model: Path,
    tasks: Mapping[str, RetrievalTask],
    *,
    options: Mapping[str, Any] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Judgement:
    """Embed the items of all tasks with one model and rank them.

    Args:
        options: of `Embedder.from_pretrained`, e.g. the input settings of the trained model.
        on_progress: called with the number of items embedded since the last call.
    """
    with Embedder.from_pretrained(model, device="cpu", **(options or {})) as embedder:
        vectors = _Vectors(embedder, on_progress)
        vectors.add("query", [item for task in tasks.values() for item in task.queries.values()])
        vectors.add("document", [item for task in tasks.values() for item in task.corpus.values()])
        ranked = {
            title: rank(
                task,
                vectors.of("query", list(task.queries.values())),
                vectors.of("document", list(task.corpus.values())),
                k=max(CUTOFFS),
            )
            for title, task in tasks.items()
        }
    return Judgement(ranked)


class _Vectors:
    """Vectors by the identity of items, which tasks share."""

    def __init__(self, embedder: Embedder, on_progress: Callable[[int], None] | None) -> None:
        self.embedder = embedder
        self.on_progress = on_progress or (lambda count: None)
        self._rows: dict[tuple[Role, int], np.ndarray] = {}

    def add(self, role: Role, items: Sequence[MultimodalInput], *, block: int = 512) -> None:
        distinct = list({id(item): item for item in items}.values())
        for begin in range(0, len(distinct), block):
            part = distinct[begin : begin + block]
            rows = self.embedder.encode(part, role=role, show_progress_bar=False)
            self._rows.update(((role, id(item)), row) for item, row in zip(part, rows, strict=True))
            self.on_progress(len(part))

    def of(self, role: Role, items: Sequence[MultimodalInput]) -> np.ndarray:
        return np.stack([self._rows[role, id(item)] for item in items])
