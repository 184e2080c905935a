"""InfoNCE with false-negative masks and hardness weights; every knob is neutral when off.

    loss_i = log( exp(z_i+) + sum_c exp(z_ic) ) - z_i+,    z_ic = s_ic / tau_i + alpha * s_ic

over the candidates c of query i that are not masked. The positive is always in, exactly once, has
weight 1 and is never masked; so a query whose candidates are all masked has loss and gradient 0.
Hardness weighting w = exp(alpha * s) is RzenEmbed 3.3.2 (alpha = 9) and LLaVE's rule; in logits it
adds alpha * s, which is not divided by tau. Detached by default as in LLaVE's code and in
sentence-transformers: same value, and a gradient that weighs but does not chase the weight.

Scores and everything after them are at least fp32: between 64 and 128, where logits of cosines at
tau = 0.01 live, bfloat16 has a spacing of 0.5. Dense: one (B, M) matrix is stored.
Letters: B local queries, G all queries, M documents, as in `losses.embeddings`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mmembed.losses.embeddings import ContrastiveEmbeddings, LossOutput
from mmembed.losses.masks import DocumentSimilarityMask, duplicate_id
from mmembed.losses.pools import HardNegatives, hard_negatives, in_batch_documents

__all__ = ["Hardness", "InfoNCE"]


@dataclass(frozen=True)
class Hardness:
    """Negatives count exp(alpha * s) times.

    Args:
        alpha: strength; 0 = off.
        scope: which negatives are weighted.
        detach: no gradient through the weight; the value is the same.
    """

    alpha: float = 0.0
    scope: Literal["in_batch", "hard", "all"] = "all"
    detach: bool = True


@dataclass(frozen=True)
class InfoNCE:
    """The mean over local queries of -log softmax of the positive.

    Args:
        in_batch: the other queries' positives are negatives.
        hard_negatives: whose hard negatives are negatives: nobody's, the query's, everybody's.
        duplicate_id: drop candidates with the positive's content id.
        similarity_mask: drop candidates that are near the positive; None = off.
        hardness: weight of negatives by their score.
        symmetric: average with the document -> query direction over the positives.

    Raises:
        ValueError: no pool of negatives is chosen.
    """

    in_batch: bool = True
    hard_negatives: HardNegatives = "shared"
    duplicate_id: bool = True
    similarity_mask: DocumentSimilarityMask | None = None
    hardness: Hardness = Hardness()
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not self.in_batch and self.hard_negatives == "none":
            raise ValueError(
                "InfoNCE has no negatives: in_batch is False and hard_negatives is 'none'. "
                "Set one of them."
            )

    def at_step(self, step: int) -> InfoNCE:
        """This loss as it applies at `step`: a mask that starts later is off."""
        if self.similarity_mask is not None and step < self.similarity_mask.from_step:
            return replace(self, similarity_mask=None)
        return self

    def __call__(self, e: ContrastiveEmbeddings, temperature: Tensor) -> LossOutput:
        with torch.autocast(e.queries.device.type, enabled=False):
            e = _at_least_float32(e)
            loss, metrics = self._query_to_document(e, temperature)
            if self.symmetric:
                loss = (loss + self._document_to_query(e, temperature)) / 2
        return LossOutput(loss, metrics)

    def _query_to_document(
        self, e: ContrastiveEmbeddings, temperature: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        in_batch = in_batch_documents(e) if self.in_batch else None
        hard = hard_negatives(e, self.hard_negatives)
        pool = hard if in_batch is None else hard | in_batch  # (B, M)
        dropped = torch.zeros_like(pool)
        if self.duplicate_id:
            dropped |= duplicate_id(e)
        if self.similarity_mask is not None:
            dropped |= self.similarity_mask(e)
        negatives = pool & ~dropped

        scores = e.queries @ e.documents.T  # (B, M)
        weighted = negatives
        if self.hardness.scope == "hard":
            weighted = negatives & hard
        elif self.hardness.scope == "in_batch":
            weighted = negatives & ~hard
        loss = self._cross_entropy(scores, temperature, e.positive, negatives, weighted)

        with torch.no_grad():
            own = scores.gather(1, e.positive[:, None])  # (B, 1)
            # Ties count against the positive: a collapsed model must not look perfect.
            rank = (negatives & (scores >= own)).sum(1).float()
            count = negatives.sum()
            metrics = {
                "masked_fraction": (pool & dropped).sum() / pool.sum().clamp_min(1),
                "accuracy": (rank == 0).float().mean(),
                "positive_rank": 1 + rank.mean(),
                "positive_similarity": own.mean(),
                "negative_similarity": scores.where(negatives, 0).sum() / count.clamp_min(1),
            }
        return loss, metrics

    def _document_to_query(self, e: ContrastiveEmbeddings, temperature: Tensor) -> Tensor:
        scores = e.documents[e.positive] @ e.all_queries.T  # (B, G)
        negatives = torch.ones_like(scores, dtype=torch.bool)
        negatives = negatives.scatter(1, e.row[:, None], False)
        if self.duplicate_id:
            negatives &= e.ids[e.positive][:, None] != e.ids[e.all_positive][None, :]
        if self.similarity_mask is not None:
            negatives &= ~self.similarity_mask.between_positives(e)
        weighted = negatives & (self.hardness.scope != "hard")
        return self._cross_entropy(scores, temperature, e.row, negatives, weighted)

    def _cross_entropy(
        self,
        scores: Tensor,
        temperature: Tensor,
        positive: Tensor,
        negatives: Tensor,
        weighted: Tensor,
    ) -> Tensor:
        logits = scores / temperature.to(scores.dtype).reshape(-1, 1)
        if self.hardness.alpha:
            weight = scores.detach() if self.hardness.detach else scores
            logits = logits + self.hardness.alpha * weight.where(weighted, 0)
        live = negatives.scatter(1, positive[:, None], True)
        logits = logits.where(live, -torch.inf)
        return torch.nn.functional.cross_entropy(logits, positive)


def _at_least_float32(e: ContrastiveEmbeddings) -> ContrastiveEmbeddings:
    dtype = torch.promote_types(e.queries.dtype, torch.float32)
    return replace(
        e,
        queries=e.queries.to(dtype),
        all_queries=e.all_queries.to(dtype),
        documents=e.documents.to(dtype),
    )
