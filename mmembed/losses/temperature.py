"""tau = exp(theta): fixed or learnable, one for the model or one for each task (RzenEmbed 3.4.3).

theta is unconstrained in the forward pass and projected onto its bounds after the optimizer step;
a clamp in the forward pass would stop its gradient at the bound. It has its own parameter group
without weight decay, which would pull tau towards 1. Tasks are separate parameters and a forward
pass touches only those of the batch: the others have no gradient, so AdamW leaves them where they
are instead of moving them on by momentum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Temperature"]


class Temperature(nn.Module):
    """Turns the task name of each row into its temperature.

    Args:
        tasks: the task names; without `per_task` they all share one theta.
        init: tau before training.
        learnable: False keeps tau at `init`.
        per_task: one theta for each task.
        minimum, maximum: bounds of tau that `project_` restores.

    Raises:
        ValueError: `init` is not inside the bounds, or the bounds are not positive.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        init: float = 0.02,
        learnable: bool = False,
        per_task: bool = False,
        minimum: float = 0.01,
        maximum: float = 0.2,
    ) -> None:
        super().__init__()
        if not 0 < minimum <= maximum:
            raise ValueError(f"temperature bounds [{minimum}, {maximum}] must be 0 < min <= max")
        # A fixed temperature is the user's choice; the bounds are for what the optimizer does.
        if not (0 < init and (not learnable or minimum <= init <= maximum)):
            raise ValueError(
                f"temperature init {init} is outside [{minimum}, {maximum}]; "
                "change init or the bounds"
            )
        names = tuple(dict.fromkeys(tasks)) if per_task else ("all",)
        self.names = names
        self.per_task = per_task
        self.minimum = minimum
        self.maximum = maximum
        self.theta = nn.ParameterList(
            nn.Parameter(torch.tensor(math.log(init)), requires_grad=learnable) for _ in names
        )

    def forward(self, tasks: Sequence[str]) -> Tensor:
        """(B,) temperatures; gradient reaches the thetas of these tasks only."""
        if not self.per_task:
            return self.theta[0].exp().expand(len(tasks))
        present = tuple(dict.fromkeys(tasks))
        theta = torch.stack([self.theta[self._index(task)] for task in present])
        if len(present) == 1:
            return theta.exp().expand(len(tasks))
        rows = torch.tensor([present.index(task) for task in tasks], device=theta.device)
        return theta.exp()[rows]

    @torch.no_grad()
    def project_(self) -> None:
        """Bring every learnt theta back onto [log minimum, log maximum]."""
        for theta in self.theta:
            if theta.requires_grad:
                theta.clamp_(math.log(self.minimum), math.log(self.maximum))

    def values(self) -> dict[str, float]:
        """tau of each task, for logs."""
        return {
            name: math.exp(theta.item()) for name, theta in zip(self.names, self.theta, strict=True)
        }

    def named_theta(self) -> dict[str, Tensor]:
        """theta of each task, detached, for checkpoints."""
        return {
            name: theta.detach().clone() for name, theta in zip(self.names, self.theta, strict=True)
        }

    @torch.no_grad()
    def load_theta(self, named: dict[str, Tensor]) -> None:
        """Take over the thetas of another stage; names it did not have keep their `init`."""
        for name, theta in zip(self.names, self.theta, strict=True):
            if name in named:
                theta.copy_(named[name])

    def _index(self, task: str) -> int:
        try:
            return self.names.index(task)
        except ValueError:
            raise ValueError(
                f"no temperature for task {task!r}; this stage has {', '.join(self.names)}"
            ) from None
