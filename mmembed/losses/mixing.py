"""Negatives mixed from the hard negatives of each row: between two of them, and of all of them.

    pair:  normalize(lambda * h_j + (1 - lambda) * h_k),   j != k drawn, lambda ~ Beta(a, b)
    list:  normalize(sum_k softmax_k(s(q, h_k)) * h_k)     the weights have no temperature

(KaLM-Embedding-V2, eq. 5 and 6.) Everyone's mixed vectors are candidates of every query. The
documents of all processes are here, so each process makes all of them, with equal draws from
`draw_seed`. Gradient reaches the documents through the mix, not through its weights.
Letters: G all queries, M documents, D width, n mixed vectors.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmembed.errors import ConfigError
from mmembed.losses.embeddings import ContrastiveEmbeddings
from mmembed.losses.pools import is_positive

__all__ = ["MixedNegatives", "mix_lists", "mix_pairs"]


@dataclass(frozen=True)
class MixedNegatives:
    """Which mixed negatives there are.

    Args:
        pair: (a, b) of the Beta distribution of lambda; None = off. A row with one hard negative
            has no pair.
        list: one mean of all hard negatives of a row; a single one is its own mean.
    """

    pair: tuple[float, float] | None = None
    list: bool = False

    def __post_init__(self) -> None:
        if self.pair is not None and not min(self.pair) > 0:
            raise ConfigError(f"MixedNegatives: pair is {self.pair}; both must be above 0")

    def __call__(self, e: ContrastiveEmbeddings) -> Tensor:
        """(n, D) unit vectors, pairs before lists, each in the order of the rows."""
        mixed = [e.documents[:0]]
        if self.pair is not None:
            first, second, weight = _draw_pairs(e, self.pair)
            mixed.append(mix_pairs(e.documents, first, second, weight))
        if self.list:
            mixed.append(mix_lists(e))
        return torch.cat(mixed)


def mix_pairs(vectors: Tensor, first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """(n, D): weight * vectors[first] + (1 - weight) * vectors[second], unit length."""
    weight = weight[:, None].to(vectors.dtype)
    return normalize(weight * vectors[first] + (1 - weight) * vectors[second], dim=-1)


def mix_lists(e: ContrastiveEmbeddings) -> Tensor:
    """(n, D): the mixed list of every row that has a hard negative."""
    columns = (~is_positive(e)).nonzero()[:, 0]  # (h,)
    owner = e.owner[columns]
    scores = (e.all_queries.detach()[owner] * e.documents.detach()[columns]).sum(-1)
    weight = scores.exp()  # scores are cosines: no overflow, and a sum of lists needs no maximum
    total = weight.new_zeros(len(e.all_queries)).index_add(0, owner, weight)
    share = (weight / total[owner])[:, None]
    mixed = e.documents.new_zeros(e.all_queries.shape)
    mixed = mixed.index_add(0, owner, share * e.documents[columns])
    return normalize(mixed[total > 0], dim=-1)


def _draw_pairs(
    e: ContrastiveEmbeddings, beta: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """(n,) columns of two different hard negatives of each row that has two, and their lambda."""
    columns = (~is_positive(e)).nonzero()[:, 0]
    columns = columns[e.owner[columns].argsort(stable=True)]  # grouped by row
    count = torch.bincount(e.owner[columns], minlength=len(e.all_queries))  # (G,)
    start = count.cumsum(0) - count

    # Drawn for every row, so that no draw depends on what other rows have; and by Python, whose
    # numbers are the same on every device.
    source = random.Random(e.draw_seed)
    draws = [
        (source.random(), source.random(), source.betavariate(*beta)) for _ in range(len(count))
    ]
    uniform, other, weight = torch.tensor(draws, dtype=torch.float64, device=count.device).T
    first = (uniform * count).long()
    second = (first + 1 + (other * (count - 1)).long()) % count.clamp_min(1)
    has_pair = count >= 2
    return (
        columns[(start + first)[has_pair]],
        columns[(start + second)[has_pair]],
        weight[has_pair],
    )
