"""Which columns compete with the positive of which row, tile by tile.

A pool compares B rows with m columns and says which pairs are candidates. The pools are disjoint
and none of them holds a query's own positive; `InfoNCE` adds that itself, exactly once.

    query_document     in-batch positives of others; own or everybody's hard negatives
    query_query        other queries
    document_document  the row's positive against documents of other rows
    document_query     the row's positive against other queries: the symmetric direction
    query_mixed        negatives mixed from hard negatives (`losses.mixing`)

Letters: B local queries, G all queries, M documents, as in `losses.embeddings`; (r, c) a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmembed.losses.embeddings import ContrastiveEmbeddings
from mmembed.losses.masks import TileMask
from mmembed.losses.tiles import Selection

__all__ = [
    "DocumentDocument",
    "HardNegatives",
    "Pool",
    "document_document",
    "document_query",
    "is_positive",
    "query_document",
    "query_mixed",
    "query_query",
]

HardNegatives = Literal["none", "own", "shared"]
DocumentDocument = Literal["none", "positives", "all"]


@dataclass(frozen=True)
class Pool:
    """Rows against columns.

    Args:
        left: (B, D). right: (m, D).
        is_hard: (m,) bool, hard negatives and what is made of them; for `Hardness.scope`.
        candidates: (rows, columns) -> (r, c) bool, before masks.
        masks: each drops some of them.
    """

    left: Tensor
    right: Tensor
    is_hard: Tensor
    candidates: Callable[[slice, slice], Tensor]
    masks: tuple[TileMask, ...] = ()

    def select(self, rows: slice, columns: slice, scores: Tensor) -> Selection:
        candidates = self.candidates(rows, columns)
        live = candidates
        for mask in self.masks:
            live = live & ~mask(rows, columns, scores)
        return Selection(candidates, live)


def query_document(
    e: ContrastiveEmbeddings, *, in_batch: bool, hard: HardNegatives, masks: tuple[TileMask, ...]
) -> Pool:
    """The positives of all other queries; the row's own hard negatives, or everybody's."""
    positive = is_positive(e)
    of_all = (positive & in_batch) | (~positive & (hard == "shared"))  # (M,)
    own_hard = ~positive & (hard == "own")
    index = torch.arange(len(e.documents), device=positive.device)

    def candidates(rows: slice, columns: slice) -> Tensor:
        found = of_all[columns] & (index[columns] != e.positive[rows, None])
        if hard == "own":
            found |= own_hard[columns] & (e.owner[columns] == e.row[rows, None])
        return found

    return Pool(e.queries, e.documents, ~positive, candidates, masks)


def query_query(e: ContrastiveEmbeddings, *, masks: tuple[TileMask, ...]) -> Pool:
    """All other queries."""
    return Pool(e.queries, e.all_queries, _none_is_hard(e), _other_rows(e), masks)


def document_document(
    e: ContrastiveEmbeddings,
    *,
    documents: Literal["positives", "all"],
    own: bool,
    masks: tuple[TileMask, ...],
) -> Pool:
    """The row's positive against documents of other rows; with `own`, its hard negatives too."""
    positive = is_positive(e)
    of_others = positive if documents == "positives" else torch.ones_like(positive)

    def candidates(rows: slice, columns: slice) -> Tensor:
        mine = e.owner[columns] == e.row[rows, None]
        found = of_others[columns] & ~mine
        return found | (mine & ~positive[columns]) if own else found

    return Pool(e.documents.index_select(0, e.positive), e.documents, ~positive, candidates, masks)


def document_query(e: ContrastiveEmbeddings, *, masks: tuple[TileMask, ...]) -> Pool:
    """The row's positive against all other queries."""
    return Pool(
        e.documents.index_select(0, e.positive),
        e.all_queries,
        _none_is_hard(e),
        _other_rows(e),
        masks,
    )


def query_mixed(e: ContrastiveEmbeddings, mixed: Tensor) -> Pool:
    """All mixed negatives. They have no content and no class, and no mask applies to them."""
    every = torch.ones(len(mixed), dtype=torch.bool, device=mixed.device)

    def candidates(rows: slice, columns: slice) -> Tensor:
        return every[columns].expand(rows.stop - rows.start, -1)

    return Pool(e.queries, mixed, every, candidates)


def is_positive(e: ContrastiveEmbeddings) -> Tensor:
    """(M,) bool: the document is some query's positive; all others are hard negatives."""
    flags = torch.zeros(len(e.documents), dtype=torch.bool, device=e.owner.device)
    return flags.index_fill(0, e.all_positive, True)


def _none_is_hard(e: ContrastiveEmbeddings) -> Tensor:
    return torch.zeros(len(e.all_queries), dtype=torch.bool, device=e.row.device)


def _other_rows(e: ContrastiveEmbeddings) -> Callable[[slice, slice], Tensor]:
    index = torch.arange(len(e.all_queries), device=e.row.device)
    return lambda rows, columns: index[columns] != e.row[rows, None]
