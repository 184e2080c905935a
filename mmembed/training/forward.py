"""From a prepared batch to the loss of one step, for the two kinds of model.

An embedder embeds queries and documents in one packed call, meets the other processes' documents
in a gather, and its loss sees embeddings only. A reranker reads (query, document) prompts and
answers yes or no, pair by pair.
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
from mmembed.training.objectives import Objectives

__all__ = ["Batch", "BatchLoss", "batch_loss", "collator", "hashed_seed"]

Batch = ContrastiveBatch | PairBatch


class BatchLoss(Protocol):
    """`loss` of the output times `share` averages over processes to the loss of the global batch.

    Raises:
        TrainingDiverged: the model gave NaN or infinity, on whatever process.
    """

    def __call__(
        self, model: nn.Module, batch: Batch, at: GlobalBatch, step: int
    ) -> tuple[LossOutput, float]: ...


def collator(
    encoder: Encoder, processor: Processor, stage: StageConfig
) -> ContrastiveCollator | PairCollator:
    """What turns rows into batches for this kind of model."""
    if isinstance(encoder, RerankerModel):
        return PairCollator(processor)
    return ContrastiveCollator(
        processor,
        max_tokens={"query": stage.max_query_tokens, "document": stage.max_document_tokens},
    )


def batch_loss(
    encoder: Encoder,
    stage: StageConfig,
    mixture: Mixture,
    objectives: Objectives,
    autocast: torch.autocast,
    *,
    seed: int,
) -> BatchLoss:
    """The loss of a batch for this kind of model.

    Raises:
        ConfigError: a setting that this kind of model cannot have.
    """
    if not isinstance(encoder, RerankerModel):
        return _Contrast(mixture, objectives, autocast, seed)
    if distributed.world_size() > 1 and not encoder.backbone.model.config.tie_word_embeddings:
        raise ConfigError(
            "a reranker whose head is not tied to its token embeddings trains on one process "
            "only; start one process, or a checkpoint with tie_word_embeddings"
        )
    return _Answers(encoder, stage, mixture, autocast)


class _Contrast:
    def __init__(
        self, mixture: Mixture, objectives: Objectives, autocast: torch.autocast, seed: int
    ) -> None:
        self.mixture = mixture
        self.objectives = objectives
        self.autocast = autocast
        self.seed = seed

    def __call__(
        self, model: nn.Module, batch: Batch, at: GlobalBatch, step: int
    ) -> tuple[LossOutput, float]:
        assert isinstance(batch, ContrastiveBatch)
        with self.autocast:
            embeddings = model(batch.inputs)  # (B + M, D), queries and documents together
        gathered = distributed.gather(
            _split(embeddings, batch), draw_seed=hashed_seed(f"loss {self.seed} {step}")
        )
        try:
            output = self.objectives(
                gathered,
                task=self.mixture.task(at.group),
                temperature=self.objectives.tau(batch.tasks),
                step=step,
            )
        except NonFiniteEmbeddings as error:  # looks at the global batch: all processes stop here
            sources = ", ".join(batch.sources)
            raise TrainingDiverged(
                step=step + 1, loss=math.nan, grad_norm=math.nan, source=sources
            ) from error
        return output, distributed.row_share(gathered)


class _Answers:
    def __init__(
        self,
        reranker: RerankerModel,
        stage: StageConfig,
        mixture: Mixture,
        autocast: torch.autocast,
    ) -> None:
        self.reranker = reranker
        self.stage = stage
        self.mixture = mixture
        self.autocast = autocast

    def __call__(
        self, model: nn.Module, batch: Batch, at: GlobalBatch, step: int
    ) -> tuple[LossOutput, float]:
        assert isinstance(batch, PairBatch)
        with self.autocast:
            states = model(batch.inputs)  # (n, D)
        output = yes_no_loss_from_states(
            states,
            self.reranker.head,
            batch.labels.to(states.device),
            self.reranker.yes_id,
            self.reranker.no_id,
            self.stage.loss_of(self.mixture.task(at.group)).yes_no_form,
        )
        return output, distributed.share_of(len(batch.labels), states.device)


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
        query_ids=batch.query_ids,
        query_classes=batch.query_classes,
        document_classes=batch.document_classes,
        scores=batch.scores,
    )
