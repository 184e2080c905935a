"""What counts more: hard negatives in the sum of a row, hard rows in the mean over rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmembed.errors import ConfigError

__all__ = ["Focal", "Hardness"]


@dataclass(frozen=True)
class Hardness:
    """Negatives count exp(alpha * s) times, s being the score that is in their logit.

    Args:
        alpha: strength; 0 = off.
        scope: which negatives are weighted. `hard`: hard negatives, also where they meet a
            positive document, and what was mixed from them. `in_batch`: everything else, that is
            positives and queries of other rows.
        detach: no gradient through the weight; the value is the same.
    """

    alpha: float = 0.0
    scope: Literal["in_batch", "hard", "all"] = "all"
    detach: bool = True

    def boost(self, is_hard: Tensor, dtype: torch.dtype) -> Tensor | float | None:
        """alpha of every column, or (m,) of each; None = off."""
        if self.alpha == 0:
            return None
        if self.scope == "all":
            return self.alpha
        return self.alpha * (is_hard if self.scope == "hard" else ~is_hard).to(dtype)


@dataclass(frozen=True)
class Focal:
    """Rows count (1 - P)^gamma times, P being the softmax probability of the positive.

    Args:
        gamma: strength; 0 = off.
        probability: P over all candidates, or over those that are not mixed (`base`).
        detach: no gradient through the weight; the value is the same.
    """

    gamma: float = 0.0
    probability: Literal["full", "base"] = "full"
    detach: bool = False

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise ConfigError(f"Focal: gamma is {self.gamma}; allowed: 0 (off) or above")

    def weight(self, row_losses: Tensor) -> Tensor:
        """(B,) weights for -log P of each row.

        The clamp comes before the power, whose slope is infinite at 0 for gamma < 1: without it a
        row that is already right has gradient 0 * inf.
        """
        if self.detach:
            row_losses = row_losses.detach()
        return (-torch.expm1(-row_losses)).clamp_min(1e-12) ** self.gamma
