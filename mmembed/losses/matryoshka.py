"""Matryoshka: an objective also holds for prefixes of the embeddings (arXiv 2205.13147).

    loss = sum over dims d of weight_d * loss(normalize(x[:d]))

Truncate, then normalise. The weights are not normalised. Masks are computed from the full width,
detached: a false negative is a property of the pair, not of the width. The draw seed is the same
for every width, so what an objective draws at random is, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmembed.losses.embeddings import ContrastiveEmbeddings, Loss, LossOutput, at_least_float32

__all__ = ["Matryoshka"]


class Matryoshka(nn.Module):
    """Wraps any objective.

    Args:
        loss: called once for each width.
        dims: widths, in any order; the full width is one of them only if it is listed.
        weights: one for each width; None = 1.

    Metrics: those of `loss` at the largest width under their own names, and `loss_dim_{d}`, the
    unweighted loss of every width d.

    Raises:
        ValueError: dims or weights that cannot be used; at a call, embeddings narrower than a dim.
    """

    loss: Loss

    def __init__(
        self, loss: Loss, dims: Sequence[int], weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.loss = loss
        self.dims = tuple(dims)
        self.weights = (1.0,) * len(self.dims) if weights is None else tuple(weights)
        if not self.dims or min(self.dims) < 1 or len(set(self.dims)) != len(self.dims):
            raise ValueError(f"Matryoshka: dims are {list(dims)}; give different positive widths")
        if len(self.weights) != len(self.dims) or not all(weight > 0 for weight in self.weights):
            raise ValueError(
                f"Matryoshka: weights are {list(self.weights)} for dims {list(dims)}; give one "
                "positive weight for each dim"
            )

    def at_step(self, step: int) -> Matryoshka:
        """This loss with the objective as it applies at `step`; parameters are shared."""
        if not hasattr(self.loss, "at_step"):
            return self
        return Matryoshka(self.loss.at_step(step), self.dims, self.weights)

    def forward(self, e: ContrastiveEmbeddings, temperature: Tensor) -> LossOutput:
        width = e.queries.shape[-1]
        largest = max(self.dims)
        if largest > width:
            raise ValueError(
                f"Matryoshka: dim {largest} is wider than the embeddings, which have {width} "
                f"dimensions. Choose dims up to {width}."
            )
        full = e.mapped(torch.detach) if e.full is None else e.full
        total, metrics = torch.zeros((), device=e.queries.device), {}
        with torch.autocast(e.queries.device.type, enabled=False):
            for dim, weight in zip(self.dims, self.weights, strict=True):
                # The full width is left as it is: normalising it again would only round.
                view = e if dim == width else _prefix(e, dim, full)
                output = self.loss(view, temperature)
                total = total + weight * output.loss
                metrics[f"loss_dim_{dim}"] = output.loss.detach()
                if dim == largest:
                    metrics |= output.metrics
        return LossOutput(total, metrics)


def _prefix(
    e: ContrastiveEmbeddings, dim: int, full: ContrastiveEmbeddings
) -> ContrastiveEmbeddings:
    return e.mapped(
        lambda x: nn.functional.normalize(at_least_float32(x[:, :dim]), dim=-1), full=full
    )
