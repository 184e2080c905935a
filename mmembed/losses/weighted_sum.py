"""Several objectives on the same batch: their weighted sum (KaLM-V2.5: contrastive and KL)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmembed.losses.embeddings import ContrastiveEmbeddings, Loss, LossOutput

__all__ = ["WeightedSum"]


class WeightedSum(nn.Module):
    """sum of weight * loss. Metrics of all terms; of two with one name the first term's stays.

    Args:
        terms: (weight, loss). Weights are not normalised.

    Raises:
        ValueError: no terms, or a weight that is not positive.
    """

    def __init__(self, terms: Sequence[tuple[float, Loss]]) -> None:
        super().__init__()
        if not terms or any(not weight > 0 for weight, _ in terms):
            raise ValueError(f"weights {[weight for weight, _ in terms]} must be above 0")
        self.terms = tuple(terms)
        self.modules_of_terms = nn.ModuleList(
            loss for _, loss in terms if isinstance(loss, nn.Module)
        )

    def at_step(self, step: int) -> WeightedSum:
        """This sum as it applies at `step`."""
        terms = [(weight, _at_step(loss, step)) for weight, loss in self.terms]
        if all(new is old for (_, new), (_, old) in zip(terms, self.terms, strict=True)):
            return self
        return WeightedSum(terms)

    def forward(self, e: ContrastiveEmbeddings, temperature: Tensor) -> LossOutput:
        total = e.queries.new_zeros((), dtype=torch.promote_types(e.queries.dtype, torch.float32))
        metrics: dict[str, Tensor] = {}
        for weight, loss in self.terms:
            output = loss(e, temperature)
            total = total + weight * output.loss
            name = type(loss).__name__.lower()
            metrics = {**output.metrics, f"{name}_loss": output.loss.detach(), **metrics}
        return LossOutput(total, metrics)


def _at_step(loss: Loss, step: int) -> Loss:
    at_step = getattr(loss, "at_step", None)
    return loss if at_step is None else at_step(step)
