"""What a loss may see: embeddings, and which row belongs to which. Never the encoder.

`training.distributed.gather` builds it after the forward pass, so a loss is the same code on one
process and on many: local rows (queries) against all gathered columns (documents), with gradient.

Letters of this folder: B local queries, G all queries, M all documents, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["ContrastiveEmbeddings", "Loss", "LossOutput"]


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

    Raises:
        ValueError: shapes that do not fit together, naming the field.
    """

    queries: Tensor
    all_queries: Tensor
    documents: Tensor
    row: Tensor
    positive: Tensor
    all_positive: Tensor
    owner: Tensor
    ids: Tensor

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
        }
        for name, length in expected.items():
            value = getattr(self, name)
            if value.shape != (length,) or value.dtype != torch.int64:
                raise ValueError(
                    f"ContrastiveEmbeddings.{name} has shape {tuple(value.shape)} and dtype "
                    f"{value.dtype}; expected ({length},) and torch.int64"
                )
        widths = {tensor.shape[1:] for tensor in (self.queries, self.all_queries, self.documents)}
        if len(widths) != 1:
            raise ValueError(
                "queries, all_queries and documents differ in width: "
                + ", ".join(str(tuple(width)) for width in sorted(widths))
            )

    @classmethod
    def of_one_process(
        cls, queries: Tensor, documents: Tensor, positive: Tensor, owner: Tensor, ids: Tensor
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
        )


@dataclass(frozen=True)
class LossOutput:
    """A scalar to minimise (mean over local queries) and detached 0-dim tensors to log."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Loss(Protocol):
    """An objective. `temperature` is a scalar or (B,), one value for each local query."""

    def __call__(self, e: ContrastiveEmbeddings, temperature: Tensor) -> LossOutput: ...
