"""Retrieval on rows that are not trained on, while a stage trains.

Each entry of `StageConfig.evaluation` is a pool of its own: its queries look for their positives
among all positives and hard negatives of the pool. The model embeds as it will when it is used,
through `Embedder`; nothing that training depends on changes, so the weights are those of a run
without evaluation. With several processes, each embeds all of it: forwards of sharded models need
all processes, and nothing has to be exchanged.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mmembed.config.stage import StageConfig
from mmembed.data.mixture import build_mixture
from mmembed.encoder.embedder import Embedder
from mmembed.encoder.encoder import Encoder
from mmembed.encoder.report import error_position
from mmembed.encoder.reranker_model import RerankerModel
from mmembed.errors import ConfigError, InputError
from mmembed.inputs.contrastive import TrainingRow, content_id, document_id, query_id
from mmembed.inputs.processor import Processor
from mmembed.training import distributed, state
from mmembed.training.step_folders import (
    best_checkpoint,
    checkpoint_folder,
    publish_checkpoint,
    read_state,
    step_of,
)
from mmembed.types import MultimodalInput, Role

__all__ = ["METRICS", "HeldOut", "Pool", "checked_pools", "first_ranks", "pools_of"]

logger = logging.getLogger(__name__)

CUTOFFS = (1, 10)
METRICS = (*(f"R@{k}" for k in CUTOFFS), "MRR")
_BLOCK_ROWS = 1024  # queries that are ranked at a time


@dataclass(frozen=True)
class Pool:
    """Distinct queries and distinct documents of one entry.

    Attributes:
        relevant: positions of the documents that answer each query; never empty.
        origins: dataset, row and item of each query, then of each document, for errors.
    """

    name: str
    queries: tuple[MultimodalInput, ...]
    documents: tuple[MultimodalInput, ...]
    relevant: tuple[frozenset[int], ...]
    origins: tuple[tuple[str, int, str], ...]


class HeldOut:
    """The evaluations of a stage.

    Args:
        encoder, processor: those that are trained.
        folder: of the stage; an earlier run may have left its best checkpoint there.
        seed: chooses the rows of entries with a cap.
        equal_chunks: all processes must run as many forward passes: none may halve a batch that
            does not fit. Batches are those of `chunk_tokens` then, which fits with gradients.

    Raises:
        ConfigError: see `checked_pools`.
    """

    def __init__(
        self,
        stage: StageConfig,
        encoder: Encoder,
        processor: Processor,
        *,
        folder: Path,
        seed: int,
        total_steps: int,
        equal_chunks: bool = False,
    ) -> None:
        self._pools = checked_pools(stage, seed=seed, reranker=isinstance(encoder, RerankerModel))
        self._every = stage.evaluate_every
        self._total_steps = total_steps
        self._encoder = encoder
        self._embedder = Embedder(encoder, processor)
        self._embedder.halves_batches = not equal_chunks
        self._batch_tokens = stage.chunk_tokens if equal_chunks else None
        self._autocast = torch.autocast(
            encoder.device.type, dtype=torch.bfloat16, enabled=stage.dtype == "bfloat16"
        )
        self._metric = stage.keep_best
        self._folder = folder
        self._best: float | None = None
        self._best_step = self._step = -1
        self._score: float | None = None
        if self._metric is not None:
            before = state.on_first(self._best_on_disk, encoder.device, folder)
            if before is not None:
                self._best_step = before
                self._best = read_state(checkpoint_folder(folder, before)).score

    def due(self, step: int) -> bool:
        """Whether there is something to evaluate after `step`; 0 is before the first one."""
        if step in (0, self._total_steps):
            return bool(self._pools)
        return bool(self._pools) and self._every is not None and step % self._every == 0

    def evaluate(self, step: int) -> dict[str, float]:
        """`evaluation/<name>/R@1`, `R@10` and `MRR` of each pool, after `step`.

        Raises:
            InputError: an item cannot be used; its index is (dataset, row, which item).
            ConfigError: memory runs out where all processes run in step.
        """
        found: dict[str, float] = {}
        with _evaluating(self._encoder), self._autocast:
            for pool in self._pools:
                ranks = first_ranks(
                    self._embed(pool, pool.queries, "query"),
                    self._embed(pool, pool.documents, "document"),
                    pool.relevant,
                )
                found |= {f"{_prefix(pool)}/{name}": x for name, x in _scores(ranks).items()}
        if self._metric is not None and step > 0:
            self._step, self._score = step, found[self._metric]
            improved = self._best is None or self._score > self._best
            # one decision for all processes, whatever their rounding
            if distributed.true_on_any(improved, self._encoder.device):
                self._best, self._best_step = self._score, step
        return found

    def score_at(self, step: int) -> float | None:
        """What `keep_best` names, if it has been measured after `step`."""
        return self._score if step == self._step else None

    def is_best_at(self, step: int) -> bool:
        """Whether `step` has the best score so far, the first of equal ones."""
        return self._metric is not None and step == self._best_step

    def publish_best(self, model_folder: Path) -> bool:
        """Make the best checkpoint the model of the stage; called by all processes after the end.

        Returns:
            False: nothing was done, because the end is the best, or nobody asked.
        """
        if self._metric is None or self.is_best_at(self._total_steps):
            return False

        def publish() -> int | None:
            step = self._best_on_disk()
            if step is not None:
                best = checkpoint_folder(self._folder, step)
                publish_checkpoint(best, model_folder)
                logger.info("%s is %s, the best by %s", model_folder, best.name, self._metric)
            return step

        return state.on_first(publish, self._encoder.device, model_folder) is not None

    def _best_on_disk(self) -> int | None:
        best = best_checkpoint(self._folder)
        return None if best is None else step_of(best)

    def _embed(self, pool: Pool, items: Sequence[MultimodalInput], role: Role) -> np.ndarray:
        try:
            rows: np.ndarray = self._embedder.encode(
                items, role=role, show_progress_bar=False, batch_tokens=self._batch_tokens
            )
        except InputError as error:
            first = len(pool.queries) if role == "document" else 0
            inner = error.index[1:] if isinstance(error.index, tuple) else ()
            error.index = (*pool.origins[first + error_position(error)], *inner)
            raise
        return rows


def _prefix(pool: Pool) -> str:
    return f"evaluation/{pool.name}"


def checked_pools(stage: StageConfig, *, seed: int, reranker: bool) -> tuple[Pool, ...]:
    """`pools_of` a stage whose model can be evaluated as it says.

    Raises:
        ConfigError: see `build_mixture`; or the model is a reranker; or `keep_best` names nothing.
    """
    if stage.evaluation and reranker:
        raise ConfigError(
            "evaluation: a reranker has no embeddings to retrieve with; leave evaluation out, "
            "and judge the reranker on candidates after training"
        )
    pools = pools_of(stage, seed=seed)
    names = [f"{_prefix(pool)}/{name}" for pool in pools for name in METRICS]
    if stage.keep_best is not None and stage.keep_best not in names:
        raise ConfigError(
            f"keep_best is {stage.keep_best!r}, which this stage does not measure; it measures "
            f"{', '.join(names)}"
        )
    return pools


def pools_of(stage: StageConfig, *, seed: int) -> tuple[Pool, ...]:
    """A pool for each entry of `stage.evaluation`.

    Items are one by their id where the adapter gives one, else by content, as in training: rows
    with one query share their positives, and a hard negative that is a positive of some row counts
    as that positive.
    """
    if not stage.evaluation:
        return ()
    mixture = build_mixture(stage.evaluation, seed=seed)
    rows: dict[str, list[TrainingRow]] = {entry.name: [] for entry in mixture.entries}
    for index in range(len(mixture)):
        row = mixture.row(index)
        rows[row.source].append(row)
    return tuple(_pool(name, found) for name, found in rows.items())


def _pool(name: str, rows: Sequence[TrainingRow]) -> Pool:
    queries: dict[int, tuple[MultimodalInput, tuple[str, int, str]]] = {}
    documents: dict[int, tuple[MultimodalInput, tuple[str, int, str]]] = {}
    answers: dict[int, set[int]] = {}
    named: dict[int, int] = {}  # content of a positive -> its id
    for row in rows:
        query = query_id(row.example)
        asked = _instructed(row.example.query, row.query_instruction)
        queries.setdefault(query, (asked, (name, row.index, "query")))
        for number, item in enumerate(row.example.positives):
            document = document_id(row.example, number)
            named.setdefault(content_id(item), document)
            answers.setdefault(query, set()).add(document)
            shown = _instructed(item, row.document_instruction)
            documents.setdefault(document, (shown, (name, row.index, f"positive {number}")))
    for row in rows:
        for number, item in enumerate(row.example.hard_negatives):
            content = content_id(item)
            shown = _instructed(item, row.document_instruction)
            origin = (name, row.index, f"hard negative {number}")
            documents.setdefault(named.get(content, content), (shown, origin))
    position = {document: place for place, document in enumerate(documents)}
    return Pool(
        name=name,
        queries=tuple(item for item, _ in queries.values()),
        documents=tuple(item for item, _ in documents.values()),
        relevant=tuple(frozenset(position[each] for each in answers[query]) for query in queries),
        origins=tuple(origin for _, origin in (*queries.values(), *documents.values())),
    )


def first_ranks(
    queries: np.ndarray, documents: np.ndarray, relevant: Sequence[frozenset[int]]
) -> np.ndarray:
    """(Q,) rank of each query's best relevant document, from 1.

    Ties count against it: a collapsed model must not look perfect.
    """
    ranks = np.empty(len(queries))
    for begin in range(0, len(queries), _BLOCK_ROWS):
        scores = queries[begin : begin + _BLOCK_ROWS] @ documents.T  # (q, M)
        for row, values in enumerate(scores):
            own = list(relevant[begin + row])
            limit = values[own].max()
            values[own] = -np.inf
            # a tie may differ by the rounding of another summation order
            ranks[begin + row] = 1 + (values >= limit - 8 * np.finfo(values.dtype).eps).sum()
    return ranks


def _scores(ranks: np.ndarray) -> dict[str, float]:
    hits = {f"R@{k}": float((ranks <= k).mean()) for k in CUTOFFS}
    return hits | {"MRR": float((1 / ranks).mean())}


def _instructed(item: MultimodalInput, instruction: str | None) -> MultimodalInput:
    if instruction is None or item.instruction is not None:
        return item
    return replace(item, instruction=instruction)


@contextlib.contextmanager
def _evaluating(encoder: Encoder) -> Iterator[None]:
    """Evaluation mode; afterwards every part is in the mode that it had, and so is the RNG."""
    training = [(part, part.training) for part in encoder.modules()]
    devices = [encoder.device] if encoder.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            encoder.eval()
            yield
    finally:
        for part, mode in training:
            part.training = mode
