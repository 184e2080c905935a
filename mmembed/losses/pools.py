"""Which columns are candidates of which query: (B, M) bool, True = in the denominator.

The pools are disjoint and none of them holds a query's own positive; `InfoNCE` adds that itself,
exactly once. Letters: B local queries, M documents, as in `losses.embeddings`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mmembed.losses.embeddings import ContrastiveEmbeddings

__all__ = ["HardNegatives", "hard_negatives", "in_batch_documents"]

HardNegatives = Literal["none", "own", "shared"]


def in_batch_documents(e: ContrastiveEmbeddings) -> Tensor:
    """The positives of all other queries of the global batch."""
    pool = _is_positive(e).repeat(len(e.queries), 1)  # (B, M)
    return pool.scatter(1, e.positive[:, None], False)


def hard_negatives(e: ContrastiveEmbeddings, scope: HardNegatives) -> Tensor:
    """The hard negatives of the query itself (`own`) or of every query (`shared`)."""
    if scope == "none":
        return torch.zeros(
            len(e.queries), len(e.documents), dtype=torch.bool, device=e.owner.device
        )
    pool = ~_is_positive(e)
    if scope == "own":
        return pool & (e.owner == e.row[:, None])
    return pool.repeat(len(e.queries), 1)


def _is_positive(e: ContrastiveEmbeddings) -> Tensor:
    flags = torch.zeros(len(e.documents), dtype=torch.bool, device=e.owner.device)
    return flags.index_fill(0, e.all_positive, True)  # (M,)
