"""A `Reranker` as a cross-encoder of mteb: it scores the candidates that a task hands over."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from mmembed.baselines.stored_vectors import with_instruction
from mmembed.encoder.reranker import Reranker
from mmembed.errors import DataError, InputError
from mmembed.evaluation.mteb_runs.metadata import model_meta
from mmembed.evaluation.mteb_runs.model import LocalTasks
from mmembed.evaluation.mteb_runs.prompts import Prompts
from mmembed.evaluation.mteb_runs.rows import item_of, prefetched, rows_of, undecoded
from mmembed.types import MultimodalInput

__all__ = ["MtebReranker", "mteb_reranker"]

_PAIRS = 1024


class MtebReranker:
    """mteb's `CrossEncoderProtocol`. Every call takes the instruction of its own task.

    A class of its own methods only: mteb knows a cross-encoder by its `predict`.
    """

    def __init__(
        self,
        reranker: Reranker,
        meta: Any,
        *,
        prompts: Prompts,
        num_frames: int = 8,
        local_tasks: LocalTasks = lambda name: None,
    ) -> None:
        self.reranker = reranker
        self.mteb_model_meta = meta
        self.prompts = prompts
        self.num_frames = num_frames
        self.local_tasks = local_tasks

    def predict(
        self,
        inputs1: Any,
        inputs2: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """(N,) scores of query i with document i, float32.

        Raises:
            DataError: a pair that cannot be scored.
        """
        queries = self._items(inputs1, task_metadata, "query")
        documents = self._items(inputs2, task_metadata, "document")
        scores: list[np.ndarray] = []
        pairs: list[tuple[MultimodalInput, MultimodalInput]] = []
        for pair in zip(queries, documents, strict=True):
            pairs.append(pair)
            if len(pairs) == _PAIRS:
                scores.append(self._score(pairs))
                pairs = []
        if pairs:
            scores.append(self._score(pairs))
        return np.concatenate(scores) if scores else np.empty(0, np.float32)

    def _score(self, pairs: list[tuple[MultimodalInput, MultimodalInput]]) -> np.ndarray:
        try:
            found: np.ndarray = self.reranker.score(pairs, show_progress_bar=False)
        except InputError as error:
            raise DataError(f"a pair cannot be scored: {error}") from None
        return found

    def _items(self, loader: Any, metadata: Any, side: Any) -> Iterator[MultimodalInput]:
        """One object for each id, so that a query that stands in many pairs is opened once."""
        task = self.local_tasks(metadata.name)
        instruction = self.prompts.instruction(metadata, "query") if side == "query" else None
        name, item = None, None
        for batch in prefetched(undecoded(loader)):
            for row in rows_of(batch):
                if item is None or row.get("id") is None or row["id"] != name:
                    name = row.get("id")
                    item = self._local(task, row, side) or item_of(
                        row, instruction, self.num_frames
                    )
                yield item

    def _local(self, task: Any, row: Mapping[str, Any], side: str) -> MultimodalInput | None:
        if task is None:
            return None
        if side == "query":
            return with_instruction(task.queries[row["id"]], task.query_instruction)
        # a reranker takes one instruction, that of the query
        return MultimodalInput(task.corpus[row["id"]].parts)


def mteb_reranker(
    reranker: Reranker,
    *,
    name: str,
    prompts: Prompts | None = None,
    num_frames: int = 8,
    training_datasets: Collection[str] | None = None,
    local_tasks: LocalTasks = lambda name: None,
) -> MtebReranker:
    """A model for `mteb.evaluate`, for tasks that hand over candidates.

    Args:
        name: folder or hub id. Others: see `MtebReranker` and `mteb_model`.

    Raises:
        MissingDependencyError: mteb is not installed.
    """
    prompts = prompts or Prompts("task")
    meta = model_meta(
        name,
        reranker.space,
        {"numerics": reranker.numerics},
        embedding_dimension=None,
        prompts=prompts.name,
        settings={"num_frames": num_frames if num_frames != 8 else None},
        training_datasets=training_datasets,
        kind="cross-encoder",
    )
    return MtebReranker(
        reranker, meta, prompts=prompts, num_frames=num_frames, local_tasks=local_tasks
    )
