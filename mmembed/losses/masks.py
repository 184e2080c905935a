"""False negatives: which candidates must leave a row's sum, tile by tile. True = out.

Masks are built from detached scores, because a comparison has no gradient and a limit must not
get one; and from the full embeddings where the loss sees truncated or quantised ones. None of them
touches the query's own positive, which is in no pool.

    mask             query-document    query-query    document-document   document-query
    duplicate_id     ids               query_ids      ids                 ids of the positives
    same_class       against the class of the row's query, everywhere
    margin           s > s+ + margin   the same       query | documents   the same
    similarity       of the document   -              of the document     of the other positive
                     with the row's positive

Letters: B local queries, G all queries, M documents, as in `losses.embeddings`; (r, c) a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from mmembed.losses.embeddings import ContrastiveEmbeddings, at_least_float32
from mmembed.losses.tiles import tiles

__all__ = ["DocumentSimilarityMask", "FalseNegatives", "MarginMask", "TileMask"]

# (rows, columns, the pool's scores (r, c)) -> (r, c) bool, True = drop.
TileMask = Callable[[slice, slice, Tensor], Tensor]


@dataclass(frozen=True)
class _SameKey:
    """Drops columns that carry the row's key. rows: (B,), columns: (m,), int64."""

    rows: Tensor
    columns: Tensor

    def __call__(self, rows: slice, columns: slice, _scores: Tensor) -> Tensor:
        return self.rows[rows, None] == self.columns[columns]


@dataclass(frozen=True)
class _Known:
    """Drops what is True in a table of one tile. drop: (B, m) bool."""

    drop: Tensor

    def __call__(self, rows: slice, columns: slice, _scores: Tensor) -> Tensor:
        return self.drop[rows, columns]


@dataclass(frozen=True)
class _ScoreAbove:
    """Drops columns whose score with `left` is above the limit.

    Args:
        limit: (B, 1), or one for all rows.
        left: (B, D). right: (m, D). None = the pool's own scores decide.
        applies: 0-dim bool tensor that turns the mask off without a wait for the device.
    """

    limit: Tensor | float
    left: Tensor | None = None
    right: Tensor | None = None
    applies: Tensor | None = None

    def __call__(self, rows: slice, columns: slice, scores: Tensor) -> Tensor:
        if self.left is not None and self.right is not None:
            scores = self.left[rows] @ self.right[columns].T
        limit = self.limit[rows] if isinstance(self.limit, Tensor) else self.limit
        above = scores > limit
        return above if self.applies is None else above & self.applies


@dataclass(frozen=True)
class MarginMask:
    """Negatives with a score above the positive's: s > s+ + margin (Qwen3-Embedding, margin 0.1).

    Args:
        margin: None = off.
        document_document: which score decides in that pool: the query's with the document (the
            literal reading of the paper), that of the two documents, or none.
    """

    margin: float | None = None
    document_document: Literal["query", "documents", "none"] = "query"


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

    def judge(self, documents: Tensor, all_positive: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """0-dim bool: `max_masked_fraction` is kept; None = there is no limit.

        Counts all G rows and not the local B, so that every process takes the same decision. The
        second value is the (G, M) comparison itself where that is a single tile.
        """
        if self.max_masked_fraction is None:
            return None, None
        num_rows, num_columns = len(all_positive), len(documents)
        count = torch.zeros((), dtype=torch.int64, device=documents.device)
        whole = None
        for rows, columns in tiles(num_rows, num_columns):
            similar = documents[all_positive[rows]] @ documents[columns].T > self.threshold
            count += similar.count_nonzero()
            if similar.shape == (num_rows, num_columns):
                whole = similar
        pairs = num_rows * (num_columns - 1)
        fraction = (count - num_rows).clamp_min(0) / max(pairs, 1)
        return fraction <= self.max_masked_fraction, whole


class FalseNegatives:
    """The masks of one batch, for each pool.

    Raises:
        ValueError: a mask needs ids or classes that the batch does not carry.
    """

    def __init__(
        self,
        e: ContrastiveEmbeddings,
        *,
        duplicate_id: bool,
        same_class: bool,
        margin: MarginMask,
        similarity: DocumentSimilarityMask | None,
    ) -> None:
        full = e if e.full is None else e.full
        self.e = e
        self.queries, self.all_queries, self.documents = (
            at_least_float32(x.detach()) for x in (full.queries, full.all_queries, full.documents)
        )
        self.duplicate_id = duplicate_id
        self.same_class = same_class
        self.margin = margin
        self.similarity = similarity
        self.applies, self.similar = (
            similarity.judge(self.documents, e.all_positive) if similarity else (None, None)
        )
        if same_class:
            _require(e, "query_classes", "same_class")

    @cached_property
    def positives(self) -> Tensor:
        return self.documents[self.e.positive]  # (B, D)

    def query_document(self) -> tuple[TileMask, ...]:
        return (
            *self._same_document(self.e.ids),
            *self._same_class("document_classes"),
            *self._above_positive(self.queries, self.documents),
            *self._near_positive(),
        )

    def query_query(self) -> tuple[TileMask, ...]:
        same: tuple[TileMask, ...] = ()
        if self.duplicate_id:
            ids = _require(self.e, "query_ids", "duplicate_id between queries")
            same = (_SameKey(ids[self.e.row], ids),)
        return (
            *same,
            *self._same_class("query_classes"),
            *self._above_positive(self.queries, self.all_queries),
        )

    def document_document(self) -> tuple[TileMask, ...]:
        above: tuple[TileMask, ...] = ()
        if self.margin.document_document == "documents":
            above = self._above_positive(self.positives, self.documents)
        elif self.margin.document_document == "query":
            above = self._above_positive(self.queries, self.documents, own_scores=False)
        return (
            *self._same_document(self.e.ids),
            *self._same_class("document_classes"),
            *above,
            *self._near_positive(),
        )

    def document_query(self) -> tuple[TileMask, ...]:
        others = self.e.all_positive  # a query stands for its positive
        return (
            *self._same_document(self.e.ids[others]),
            *self._same_class("query_classes"),
            *self._above_positive(self.positives, self.all_queries),
            *self._near_positive(others),
        )

    def _same_document(self, ids: Tensor) -> tuple[TileMask, ...]:
        return (_SameKey(self.e.ids[self.e.positive], ids),) if self.duplicate_id else ()

    def _same_class(self, columns: str) -> tuple[TileMask, ...]:
        if not self.same_class:
            return ()
        own = _require(self.e, "query_classes", "same_class")[self.e.row]
        return (_SameKey(own, _require(self.e, columns, "same_class")),)

    def _above_positive(
        self, left: Tensor, right: Tensor, *, own_scores: bool = True
    ) -> tuple[TileMask, ...]:
        """`own_scores`: the pool compares the same embeddings, so its scores serve again."""
        if self.margin.margin is None:
            return ()
        limit = (self.queries * self.positives).sum(-1, keepdim=True) + self.margin.margin
        if own_scores and self.e.full is None:
            return (_ScoreAbove(limit),)
        return (_ScoreAbove(limit, left, right),)

    def _near_positive(self, columns: Tensor | None = None) -> tuple[TileMask, ...]:
        """Against all documents, or those of `columns`."""
        if self.similarity is None:
            return ()
        if self.similar is not None and self.applies is not None:
            drop = self.similar[self.e.row] & self.applies  # (B, M)
            return (_Known(drop if columns is None else drop.index_select(1, columns)),)
        documents = self.documents if columns is None else self.documents[columns]
        return (_ScoreAbove(self.similarity.threshold, self.positives, documents, self.applies),)


def _require(e: ContrastiveEmbeddings, name: str, purpose: str) -> Tensor:
    value: Tensor | None = getattr(e, name)
    if value is None:
        raise ValueError(
            f"{purpose} needs ContrastiveEmbeddings.{name}, which this batch does not carry; "
            f"set {name} or turn the mask off"
        )
    return value
