"""From a prepared batch to the gradients of one step, for the two kinds of model.

An embedder embeds queries and documents together, meets the other processes' documents in a
gather, and its loss sees embeddings only. A reranker reads (query, document) prompts and answers
yes or no, pair by pair. `grad_cache` runs both in chunks that fit into memory.
"""

from __future__ import annotations

import hashlib
import math
from typing import Protocol

import torch
from torch import Tensor, nn

from mmembed.config.stage import StageConfig
from mmembed.data.mixture import Mixture
from mmembed.data.sampler import GlobalBatch
from mmembed.encoder.encoder import Encoder
from mmembed.encoder.reranker_model import RerankerModel
from mmembed.errors import ConfigError, TrainingDiverged
from mmembed.inputs.contrastive import ContrastiveBatch, ContrastiveCollator
from mmembed.inputs.pairs import PairBatch, PairCollator
from mmembed.inputs.processor import Processor
from mmembed.losses.embeddings import LossOutput
from mmembed.losses.pointwise import yes_no_loss_from_states
from mmembed.losses.validation import NonFiniteEmbeddings
from mmembed.training import distributed
from mmembed.training.blank_item import blank_item
from mmembed.training.grad_cache import ChunkedBackward, Exchange
from mmembed.training.objectives import Objectives

__all__ = ["Batch", "Gradients", "batch_gradients", "collator", "hashed_seed"]

Batch = ContrastiveBatch | PairBatch


class Gradients(Protocol):
    """Adds a batch's gradients to the parameters; averaged over processes, of the global batch.

    Attributes:
        backward: runs the chunks.

    Returns:
        The loss of the global batch, detached, and the metrics of this process's rows.

    Raises:
        ConfigError: an item that does not fit into memory.
        TrainingDiverged: the model gave NaN or infinity, on whatever process.
    """

    backward: ChunkedBackward

    def __call__(
        self, model: nn.Module, batch: Batch, at: GlobalBatch, step: int
    ) -> LossOutput: ...


def collator(
    encoder: Encoder, processor: Processor, stage: StageConfig
) -> ContrastiveCollator | PairCollator:
    """What turns rows into batches for this kind of model."""
    picture_keys = stage.tower_cache_mb > 0
    if isinstance(encoder, RerankerModel):
        return PairCollator(processor, chunk_tokens=stage.chunk_tokens, picture_keys=picture_keys)
    return ContrastiveCollator(
        processor,
        max_tokens={"query": stage.max_query_tokens, "document": stage.max_document_tokens},
        chunk_tokens=stage.chunk_tokens,
        picture_keys=picture_keys,
    )


def batch_gradients(
    encoder: Encoder,
    stage: StageConfig,
    mixture: Mixture,
    objectives: Objectives,
    accelerator: Exchange,
    *,
    seed: int,
    equal_chunks: bool = False,
    always_blank: bool = False,
) -> Gradients:
    """The gradients of a batch for this kind of model.

    Args:
        accelerator: prepares what is passed as `model` later.
        equal_chunks, always_blank: see `ChunkedBackward`.

    Raises:
        ConfigError: a setting that this kind of model cannot have.
    """
    autocast = torch.autocast(
        encoder.device.type, dtype=torch.bfloat16, enabled=stage.dtype == "bfloat16"
    )

    def clear() -> None:
        encoder.zero_grad(set_to_none=True)
        objectives.zero_grad(set_to_none=True)

    backward = ChunkedBackward(
        accelerator,
        autocast,
        clear,
        equal_chunks=equal_chunks,
        blank=blank_item(encoder) if equal_chunks and encoder.backbone.tower is not None else None,
        always_blank=always_blank,
    )
    if not isinstance(encoder, RerankerModel):
        return _Contrast(mixture, objectives, backward, seed)
    if distributed.world_size() > 1 and not encoder.backbone.model.config.tie_word_embeddings:
        raise ConfigError(
            "a reranker whose head is not tied to its token embeddings trains on one process "
            "only; start one process, or a checkpoint with tie_word_embeddings"
        )
    return _Answers(encoder, stage, mixture, backward)


class _Contrast:
    def __init__(
        self, mixture: Mixture, objectives: Objectives, backward: ChunkedBackward, seed: int
    ) -> None:
        self.mixture = mixture
        self.objectives = objectives
        self.backward = backward
        self.seed = seed

    def __call__(self, model: nn.Module, batch: Batch, at: GlobalBatch, step: int) -> LossOutput:
        assert isinstance(batch, ContrastiveBatch)
        split = at.is_split(distributed.world_size())

        def loss_of(embeddings: Tensor) -> tuple[LossOutput, float]:
            gathered = distributed.gather(
                _split(embeddings, batch),
                draw_seed=hashed_seed(f"loss {self.seed} {step}"),
                split=split,
            )
            output = self.objectives(
                gathered,
                key=self.mixture.loss(at.group),
                temperature=self.objectives.tau(batch.tasks),
                step=step,
            )
            return output, distributed.row_share(gathered) if split else 1.0

        try:
            return self.backward.coupled(model, batch.inputs, loss_of)
        except NonFiniteEmbeddings as error:  # looks at the global batch: all processes stop here
            rows = self.mixture.named_rows(at.rows)
            raise TrainingDiverged(
                step=step + 1, loss=math.nan, grad_norm=math.nan, rows=rows
            ) from error


class _Answers:
    def __init__(
        self,
        reranker: RerankerModel,
        stage: StageConfig,
        mixture: Mixture,
        backward: ChunkedBackward,
    ) -> None:
        self.reranker = reranker
        self.stage = stage
        self.mixture = mixture
        self.backward = backward

    def __call__(self, model: nn.Module, batch: Batch, at: GlobalBatch, step: int) -> LossOutput:
        assert isinstance(batch, PairBatch)
        form = self.stage.loss_of(self.mixture.loss(at.group)).yes_no_form

        def loss_of(states: Tensor, pairs: slice) -> LossOutput:
            return yes_no_loss_from_states(
                states,
                self.reranker.head,
                batch.labels[pairs].to(states.device),
                self.reranker.yes_id,
                self.reranker.no_id,
                form,
            )

        return self.backward.additive(model, batch.inputs, loss_of)


def hashed_seed(content: str) -> int:
    """63 bits that follow from the content alone."""
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big") >> 1


def _split(embeddings: Tensor, batch: ContrastiveBatch) -> distributed.LocalEmbeddings:
    ordered = embeddings[batch.place.to(embeddings.device)]  # queries, then documents
    return distributed.LocalEmbeddings(
        queries=ordered[: batch.num_queries],
        documents=ordered[batch.num_queries :],
        positive=batch.positive,
        owner=batch.owner,
        ids=batch.ids,
        positive_contents=batch.positive_contents,
        query_ids=batch.query_ids,
        query_classes=batch.query_classes,
        document_classes=batch.document_classes,
        scores=batch.scores,
    )
