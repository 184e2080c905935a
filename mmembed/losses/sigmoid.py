"""Pairwise sigmoid loss: every (query, document) pair is one yes-or-no question.

    loss = 1/B sum_i ( softplus(-z_i+) + sum_c softplus(z_ic) ),    z_ic = s_ic / tau_i + bias

over all documents c of the global batch but the query's positive (SigLIP, arXiv 2303.15343,
equation 1: there 1 / tau = exp(t') starts at 10, so tau at 0.1, and the bias at -10, which cancels
the weight of the many negatives at the start). No softmax couples the columns, so they are summed
tile by tile and computed again in the backward pass: the (B, M) matrix is never stored.

Letters: B local queries, M documents, C columns of a tile.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from mmembed.losses.embeddings import ContrastiveEmbeddings, LossOutput, at_least_float32
from mmembed.losses.validation import check_finite, row_temperatures

__all__ = ["Sigmoid"]

_TILE_COLUMNS = 1024  # bounds memory at B x 1024; the result does not depend on it


class Sigmoid(nn.Module):
    """The sum over documents, averaged over local queries. Has a learnable bias.

    Args:
        bias_init: the bias before training.
        duplicate_id: documents with the positive's content id are no negatives.

    Metrics: `positive_loss` and `negative_loss`, whose sum is the loss; `positive_similarity`;
    `bias`.

    Raises:
        NonFiniteEmbeddings: at a call, NaN or infinity in queries or documents.
        ValueError: at a call, a temperature that is not above 0.
    """

    def __init__(self, *, bias_init: float = -10.0, duplicate_id: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias_init, dtype=torch.float32))
        self.duplicate_id = duplicate_id

    def forward(self, e: ContrastiveEmbeddings, temperature: Tensor) -> LossOutput:
        check_finite(e)
        with torch.autocast(e.queries.device.type, enabled=False):
            queries, documents = at_least_float32(e.queries), at_least_float32(e.documents)
            bias = self.bias.to(queries.dtype)
            tau = row_temperatures(temperature, e)
            own = (queries * documents[e.positive]).sum(-1)  # (B,)
            rows = max(len(queries), 1)
            positive_loss = softplus(-(own / tau + bias)).sum() / rows
            scaled = queries / tau[:, None]  # one division per row, not per pair
            negative_loss = torch.zeros_like(positive_loss)
            first = 0
            for tile in documents.split(_TILE_COLUMNS):
                negative_loss = negative_loss + checkpoint(
                    self._sum_over_tile,
                    scaled,
                    tile,
                    bias,
                    e,
                    first,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
                first += len(tile)
            negative_loss = negative_loss / rows
        metrics = {
            "positive_loss": positive_loss.detach(),
            "negative_loss": negative_loss.detach(),
            "positive_similarity": own.detach().mean(),
            "bias": bias.detach().clone(),
        }
        return LossOutput(positive_loss + negative_loss, metrics)

    def _sum_over_tile(
        self, scaled: Tensor, tile: Tensor, bias: Tensor, e: ContrastiveEmbeddings, first: int
    ) -> Tensor:
        columns = torch.arange(first, first + len(tile), device=tile.device)
        dropped = columns == e.positive[:, None]  # (B, C)
        if self.duplicate_id:
            dropped |= e.ids[columns] == e.ids[e.positive][:, None]
        return softplus(scaled @ tile.T + bias).masked_fill(dropped, 0).sum()
