"""Learning rates by step, and which parameters decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmembed.config.stage import StageConfig
from mmembed.losses.temperature import Temperature
from mmembed.training.objectives import Objectives
from mmembed.training.optim import Schedule, build_optimizer, learning_rate_factor


def factors(schedule, *, total: int = 10, warmup: int = 0) -> list[float]:
    return [
        learning_rate_factor(step, total_steps=total, warmup_steps=warmup, schedule=schedule)
        for step in range(total)
    ]


def stage(**options) -> StageConfig:
    return StageConfig(data=[{"adapter": "a:B"}], steps=10, **options)


def test_linear_schedule_falls_in_equal_steps():
    assert factors("linear", total=4) == [1.0, 0.75, 0.5, 0.25]


def test_cosine_schedule_is_half_way_down_in_the_middle():
    values = factors("cosine")
    assert values[0] == 1.0
    assert values[5] == pytest.approx(0.5)
    assert values == sorted(values, reverse=True)


def test_warmup_rises_to_the_peak_and_constant_stays_there():
    assert factors("constant", warmup=4) == [0.25, 0.5, 0.75, 1.0] + [1.0] * 6
    assert factors("cosine", warmup=4)[3:5] == [1.0, 1.0]


def test_norms_biases_and_temperature_do_not_decay():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    temperature = Temperature(["a"], learnable=True)
    optimizer = build_optimizer(
        model, Objectives({}, temperature), stage(weight_decay=0.1, temperature={"learnable": True})
    )
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert decay[id(model[0].weight)] == 0.1
    for parameter in (model[0].bias, *model[1].parameters(), *temperature.parameters()):
        assert decay[id(parameter)] == 0.0


def test_temperature_has_its_own_learning_rate_on_the_same_schedule():
    model, temperature = nn.Linear(2, 2), Temperature(["a"], learnable=True)
    settings = stage(
        learning_rate=0.1,
        schedule="linear",
        temperature={"learnable": True, "learning_rate": 0.4},
    )
    optimizer = build_optimizer(model, Objectives({}, temperature), settings)
    schedule = Schedule(optimizer, settings, total_steps=10)
    assert schedule.set_step(5) == pytest.approx(0.05)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.05, 0.2])


def test_frozen_parameters_are_not_given_to_the_optimizer():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = build_optimizer(model, Objectives({}, Temperature(["a"])), stage())
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]
    assert isinstance(optimizer, torch.optim.AdamW)
