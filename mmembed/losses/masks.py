"""False negatives: which candidates must leave a query's denominator. (B, M) bool, True = out.

Masks are built from detached scores, because a comparison has no gradient and a limit must not
get one. None of them protects the query's own positive; `InfoNCE` does that for all of them.
Letters: B local queries, G all queries, M documents, as in `losses.embeddings`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmembed.losses.embeddings import ContrastiveEmbeddings

__all__ = ["DocumentSimilarityMask", "duplicate_id"]


def duplicate_id(e: ContrastiveEmbeddings) -> Tensor:
    """Documents with the same content id as the query's positive."""
    return e.ids[None, :] == e.ids[e.positive][:, None]


@dataclass(frozen=True)
class DocumentSimilarityMask:
    """Documents nearer than `threshold` to the query's positive (RzenEmbed 3.3.1, threshold 0.95).

    The threshold is absolute and between documents: s(negative, positive) > threshold. The score
    of the query plays no part.

    Args:
        threshold: cosine above which two documents count as the same; above 1 masks nothing.
        from_step: the mask is off before this step of the stage.
        max_masked_fraction: leave the mask off for a batch in which it would drop more than this
            share of all document pairs; None = no limit. Ours: the last-token states of an
            untrained causal model are so alike that 0.95 would empty every denominator.
    """

    threshold: float
    from_step: int = 0
    max_masked_fraction: float | None = None

    def __call__(self, e: ContrastiveEmbeddings) -> Tensor:
        documents = e.documents.detach()
        if self.max_masked_fraction is None:
            return documents[e.positive] @ documents.T > self.threshold
        # All G rows and not the local B, so that every process takes the same decision.
        similar = documents[e.all_positive] @ documents.T > self.threshold  # (G, M)
        pairs = similar.numel() - len(similar)
        fraction = (similar.sum() - len(similar)).clamp_min(0) / max(pairs, 1)
        return similar[e.row] & (fraction <= self.max_masked_fraction)

    def between_positives(self, e: ContrastiveEmbeddings) -> Tensor:
        """The same rule for the document -> query direction: (B, G)."""
        dropped = self(e)  # (B, M)
        return torch.index_select(dropped, 1, e.all_positive)
