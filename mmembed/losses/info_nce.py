"""InfoNCE over pools of candidates, with false-negative masks and weights; all neutral when off.

    loss_i = omega_i * log( 1 + sum_c exp(z_ic - z_i+) ),    z_ic = s_ic / tau_i + alpha * s_ic

over the candidates c of row i, from all pools (`losses.pools`), that no mask (`losses.masks`)
drops. The positive is always in, exactly once, has weight 1 and is never masked; so a row whose
candidates are all masked has loss and gradient 0. Hardness weighting w = exp(alpha * s) is
RzenEmbed 3.3.2 (alpha = 9) and LLaVE's rule; in logits it adds alpha * s, which is not divided by
tau. Detached by default as in LLaVE's code and in sentence-transformers: same value, and a gradient
that weighs but does not chase the weight. omega is the focal weight of KaLM-Embedding-V2, eq. 4.

Scores and everything after them are at least fp32: between 64 and 128, where logits of cosines at
tau = 0.01 live, bfloat16 has a spacing of 0.5. No (B, M) matrix is stored (`losses.tiles`).
Letters: B local queries, G all queries, M documents, as in `losses.embeddings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mmembed.errors import ConfigError
from mmembed.losses import pools
from mmembed.losses.embeddings import ContrastiveEmbeddings, LossOutput, at_least_float32
from mmembed.losses.masks import DocumentSimilarityMask, FalseNegatives, MarginMask
from mmembed.losses.mixing import MixedNegatives
from mmembed.losses.observation import Observation
from mmembed.losses.pools import DocumentDocument, HardNegatives, Pool
from mmembed.losses.tiles import Observer, masked_logsumexp
from mmembed.losses.validation import check_finite, row_temperatures
from mmembed.losses.weights import Focal, Hardness

__all__ = ["Focal", "Hardness", "InfoNCE"]


@dataclass(frozen=True)
class InfoNCE:
    """The mean over local queries of -log softmax of the positive.

    Args:
        in_batch: the other queries' positives are negatives.
        hard_negatives: whose hard negatives are negatives: nobody's, the query's, everybody's.
        query_query: the other queries are negatives.
        document_document: documents of other rows compete with the row's positive: `positives`, or
            `all` with their hard negatives.
        own_documents: the row's own hard negatives take part in `document_document`.
        mixed_negatives: everybody's mixed hard negatives are negatives.
        duplicate_id: drop candidates with the positive's content id; in `query_query`, the query's.
        same_class: drop candidates of the query's class.
        margin_mask: drop candidates with a score above the positive's.
        similarity_mask: drop documents that are near the positive; None = off.
        hardness: weight of negatives by their score.
        focal: weight of rows by their difficulty.
        symmetric: average with the document -> query direction, over the other queries.

    Metrics: `masked_fraction` of all candidates of the query (mixed ones are never masked);
    `accuracy`, `positive_rank` (ties count against the positive) and `negative_similarity` over
    live documents; `positive_similarity`.

    Raises:
        ConfigError: no pool of negatives is chosen, or a knob has no effect.
        NonFiniteEmbeddings: at a call, NaN or infinity in queries or documents.
        ValueError: at a call, a temperature that is not above 0, or ids or classes that are needed
            and missing.
    """

    in_batch: bool = True
    hard_negatives: HardNegatives = "shared"
    query_query: bool = False
    document_document: DocumentDocument = "none"
    own_documents: bool = False
    mixed_negatives: MixedNegatives = field(default_factory=MixedNegatives)
    duplicate_id: bool = True
    same_class: bool = False
    margin_mask: MarginMask = field(default_factory=MarginMask)
    similarity_mask: DocumentSimilarityMask | None = None
    hardness: Hardness = field(default_factory=Hardness)
    focal: Focal = field(default_factory=Focal)
    symmetric: bool = False

    def __post_init__(self) -> None:
        has_pool = (
            self.in_batch
            or self.hard_negatives != "none"
            or self.query_query
            or self.document_document != "none"
        )
        if not has_pool:
            raise ConfigError(
                "InfoNCE has no negatives: in_batch and query_query are False, hard_negatives and "
                "document_document are 'none'. Set one of them."
            )
        if self.own_documents and self.document_document == "none":
            raise ConfigError(
                "InfoNCE: own_documents has no effect while document_document is 'none'; set "
                "document_document to 'positives' or 'all', or leave own_documents out"
            )

    def at_step(self, step: int) -> InfoNCE:
        """This loss as it applies at `step`: a mask that starts later is off."""
        if self.similarity_mask is not None and step < self.similarity_mask.from_step:
            return replace(self, similarity_mask=None)
        return self

    def __call__(self, e: ContrastiveEmbeddings, temperature: Tensor) -> LossOutput:
        losses, observation = self._rows(e, temperature)
        return LossOutput(losses.mean(), observation.metrics())

    def row_losses(self, e: ContrastiveEmbeddings, temperature: Tensor) -> Tensor:
        """(B,) the loss of each local query, row weight included; the loss is their mean."""
        return self._rows(e, temperature)[0]

    def _rows(self, e: ContrastiveEmbeddings, temperature: Tensor) -> tuple[Tensor, Observation]:
        check_finite(e)
        with torch.autocast(e.queries.device.type, enabled=False):
            e = e.mapped(at_least_float32)
            tau = row_temperatures(temperature, e)
            masks = FalseNegatives(
                e,
                duplicate_id=self.duplicate_id,
                same_class=self.same_class,
                margin=self.margin_mask,
                similarity=self.similarity_mask,
            )
            observation = Observation(e)
            pool = pools.query_document(
                e, in_batch=self.in_batch, hard=self.hard_negatives, masks=masks.query_document()
            )
            # The positive is a column of this pool, though never a candidate in it; so the pool is
            # there even when it has no candidates.
            documents, positive = self._sum(
                pool, tau, observe=observation.see_documents, target=e.positive
            )
            plain = [documents]
            if self.query_query:
                pool = pools.query_query(e, masks=masks.query_query())
                plain.append(self._sum(pool, tau, observe=observation.see)[0])
            if self.document_document != "none":
                pool = pools.document_document(
                    e,
                    documents=self.document_document,
                    own=self.own_documents,
                    masks=masks.document_document(),
                )
                plain.append(self._sum(pool, tau, observe=observation.see)[0])
            mixed = self.mixed_negatives(e)
            extra = [self._sum(pools.query_mixed(e, mixed), tau)[0]] if len(mixed) else []
            losses = self._weighted(positive / tau, plain, extra)
            if self.symmetric:
                reverse = self._sum(pools.document_query(e, masks=masks.document_query()), tau)[0]
                losses = (losses + self._weighted(positive / tau, [reverse], [])) / 2
        return losses, observation

    def _sum(
        self,
        pool: Pool,
        tau: Tensor,
        *,
        observe: Observer | None = None,
        target: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(B,) log of the weighted sum over one pool's live candidates; scores of `target`."""
        return masked_logsumexp(
            pool.left,
            pool.right,
            tau,
            pool.select,
            boost=self.hardness.boost(pool.is_hard, pool.left.dtype),
            detach_boost=self.hardness.detach,
            observe=observe,
            target=target,
        )

    def _weighted(
        self, positive: Tensor, plain: Sequence[Tensor], extra: Sequence[Tensor]
    ) -> Tensor:
        """(B,) row losses from the positive's logit and the sums of the pools."""
        losses = _cross_entropy(positive, [*plain, *extra])
        if not self.focal.gamma:
            return losses
        base = self.focal.probability == "base" and extra
        return losses * self.focal.weight(_cross_entropy(positive, plain) if base else losses)


def _cross_entropy(positive: Tensor, sums: Sequence[Tensor]) -> Tensor:
    """log(1 + sum exp(sums - positive)), exact where the loss is tiny and safe where it is huge.

    logsumexp(positive, sums) - positive would lose the loss of a row that is nearly right in the
    rounding of its logits, and has no gradient where every sum is -inf.
    """
    excess = torch.stack(list(sums)) - positive  # (pools, B)
    top = excess.detach().amax(0).clamp_min(0)
    return top + torch.log1p(torch.expm1(-top) + (excess - top).exp().sum(0))
