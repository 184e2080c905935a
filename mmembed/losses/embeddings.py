"""What a loss may see: embeddings, and which row belongs to which. Never the encoder.

`training.distributed.gather` builds it after the forward pass, so a loss is the same code on one
process and on many: local rows (queries) against all gathered columns (documents), with gradient.

Letters of this folder: B local queries, G all queries, M all documents, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["ContrastiveEmbeddings", "Loss", "LossOutput", "at_least_float32"]


@dataclass(frozen=True)
class ContrastiveEmbeddings:
    """One global batch as one process sees it.

    Args:
        queries: (B, D) unit rows, this process's queries.
        all_queries: (G, D) the queries of all processes; `queries` are its rows `row`.
        documents: (M, D) all documents of the global batch: positives and hard negatives.
        row: (B,) int64, the global row of each local query.
        positive: (B,) int64, the column of each local query's positive.
        all_positive: (G,) int64, the column of every query's positive.
        owner: (M,) int64, the global row of the query that brought the document.
        ids: (M,) int64, content ids; equal ids are the same document.
        query_ids: (G,) int64, content ids of the queries.
        query_classes: (G,) int64, class ids; document_classes: (M,) int64. For class masks.
        scores: (M,) float, of each document with the query that brought it: a graded similarity
            or a teacher's score; NaN where there is none.
        draw_seed: seeds what a loss draws at random; equal on all processes, another each step.
        full: the embeddings that masks are computed from, where these are truncated or quantised:
            a false negative is a property of the pair, not of the width. None = these.

    Raises:
        ValueError: shapes that do not fit together or an index out of range, naming the field.
    """

    queries: Tensor
    all_queries: Tensor
    documents: Tensor
    row: Tensor
    positive: Tensor
    all_positive: Tensor
    owner: Tensor
    ids: Tensor
    query_ids: Tensor | None = None
    query_classes: Tensor | None = None
    document_classes: Tensor | None = None
    scores: Tensor | None = None
    draw_seed: int = 0
    full: ContrastiveEmbeddings | None = None

    def __post_init__(self) -> None:
        num_local, num_all, num_documents = map(
            len, (self.queries, self.all_queries, self.documents)
        )
        expected = {
            "row": num_local,
            "positive": num_local,
            "all_positive": num_all,
            "owner": num_documents,
            "ids": num_documents,
            "query_ids": num_all,
            "query_classes": num_all,
            "document_classes": num_documents,
        }
        for name, length in expected.items():
            value = getattr(self, name)
            if value is not None and (value.shape != (length,) or value.dtype != torch.int64):
                raise ValueError(
                    f"ContrastiveEmbeddings.{name} has shape {tuple(value.shape)} and dtype "
                    f"{value.dtype}; expected ({length},) and torch.int64"
                )
        if self.scores is not None and self.scores.shape != (num_documents,):
            raise ValueError(
                f"ContrastiveEmbeddings.scores has shape {tuple(self.scores.shape)}; "
                f"expected ({num_documents},)"
            )
        limits = {
            "row": num_all,
            "positive": num_documents,
            "all_positive": num_documents,
            "owner": num_all,
        }
        for name, limit in limits.items():
            value = getattr(self, name)
            if len(value) and not bool(((value >= 0) & (value < limit)).all()):
                raise ValueError(
                    f"ContrastiveEmbeddings.{name} has an index out of range: "
                    f"{value.min().item()}..{value.max().item()}; allowed: 0..{limit - 1}"
                )
        widths = {tensor.shape[1:] for tensor in (self.queries, self.all_queries, self.documents)}
        if len(widths) != 1:
            raise ValueError(
                "queries, all_queries and documents differ in width: "
                + ", ".join(str(tuple(width)) for width in sorted(widths))
            )

    @classmethod
    def of_one_process(
        cls,
        queries: Tensor,
        documents: Tensor,
        positive: Tensor,
        owner: Tensor,
        ids: Tensor,
        **optional: Any,
    ) -> ContrastiveEmbeddings:
        """The identity gather: the local batch is the global batch."""
        return cls(
            queries=queries,
            all_queries=queries,
            documents=documents,
            row=torch.arange(len(queries), device=queries.device),
            positive=positive,
            all_positive=positive,
            owner=owner,
            ids=ids,
            **optional,
        )

    def mapped(
        self,
        transform: Callable[[Tensor], Tensor],
        *,
        full: ContrastiveEmbeddings | None = None,
    ) -> ContrastiveEmbeddings:
        """The same batch with other embeddings, and masks from those of `full`; None = as here."""
        queries = transform(self.queries)
        shared = self.all_queries is self.queries
        return replace(
            self,
            queries=queries,
            all_queries=queries if shared else transform(self.all_queries),
            documents=transform(self.documents),
            full=self.full if full is None else full,
        )


@dataclass(frozen=True)
class LossOutput:
    """A scalar to minimise (mean over local queries) and detached 0-dim tensors to log."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Loss(Protocol):
    """An objective. `temperature` is a scalar or (B,), one value for each local query."""

    def __call__(self, e: ContrastiveEmbeddings, temperature: Tensor) -> LossOutput: ...


def at_least_float32(values: Tensor) -> Tensor:
    """Losses compute in float32, or wider where their input is: bfloat16 cannot hold a logit."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
