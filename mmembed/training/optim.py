"""AdamW with the right parameter groups, and learning rates that are a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from mmembed.config.stage import StageConfig
from mmembed.errors import ConfigError
from mmembed.training.objectives import Objectives

__all__ = [
    "Schedule",
    "adamw",
    "build_optimizer",
    "freeze_parameters",
    "learning_rate_factor",
    "model_groups",
    "objective_groups",
]


def learning_rate_factor(
    step: int,
    *,
    total_steps: int,
    warmup_steps: int,
    schedule: Literal["cosine", "linear", "constant"],
) -> float:
    """Share of the peak learning rate at `step` in 0..total_steps - 1; it falls towards 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


class Schedule:
    """Sets the learning rate of a step. Without state: a resumed run needs the step only."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, stage: StageConfig, *, total_steps: int
    ) -> None:
        self._optimizer = optimizer
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self._total_steps = total_steps
        self._warmup_steps = math.ceil(stage.warmup_ratio * total_steps)
        self._schedule = stage.schedule

    def set_step(self, step: int) -> float:
        """Prepare the optimizer for `step`; returns the model's learning rate."""
        factor = learning_rate_factor(
            step,
            total_steps=self._total_steps,
            warmup_steps=self._warmup_steps,
            schedule=self._schedule,
        )
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        return self._peaks[0] * factor


def build_optimizer(
    model: nn.Module, objectives: Objectives, stage: StageConfig
) -> torch.optim.AdamW:
    """AdamW of all that a stage trains."""
    return adamw(model_groups(model, stage) + objective_groups(objectives, stage), stage)


def model_groups(model: nn.Module, stage: StageConfig) -> list[dict[str, Any]]:
    """Matrices decay; norms and biases do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return _nonempty(
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": stage.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    )


def objective_groups(objectives: Objectives, stage: StageConfig) -> list[dict[str, Any]]:
    """The temperature and what losses learn: decay would pull theta to 0, that is tau to 1."""
    return _nonempty(
        {
            "params": [p for p in objectives.temperature.parameters() if p.requires_grad],
            "weight_decay": 0.0,
            "lr": stage.temperature.learning_rate or stage.learning_rate,
        },
        {"params": objectives.loss_parameters(), "weight_decay": 0.0},
    )


def _nonempty(*groups: dict[str, Any]) -> list[dict[str, Any]]:
    return [group for group in groups if group["params"]]


def adamw(groups: list[dict[str, Any]], stage: StageConfig) -> torch.optim.AdamW:
    """AdamW with a stage's settings."""
    return torch.optim.AdamW(groups, lr=stage.learning_rate, betas=stage.betas, fused=True)


def freeze_parameters(model: nn.Module, prefixes: Iterable[str]) -> None:
    """Stop training the parameters whose checkpoint names start with one of `prefixes`.

    Raises:
        ConfigError: a prefix that fits no parameter, or nothing is left to train.
    """
    named = dict(model.named_parameters())
    for prefix in prefixes:
        fitting = [p for name, p in named.items() if name == prefix or name.startswith(prefix)]
        if not fitting:
            tops = sorted({name.split(".")[0] for name in named})
            raise ConfigError(f"freeze: no parameter starts with {prefix!r}; there are {tops}")
        for parameter in fitting:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in named.values()):
        raise ConfigError("freeze leaves no parameter to train")
