"""Temperature: exponential form, bounds, and tasks that wait their turn."""

from __future__ import annotations

import math

import pytest
import torch

from mmembed.losses.temperature import Temperature

TASKS = ["retrieval", "sts", "qa"]


def test_every_row_gets_the_temperature_of_its_task():
    temperature = Temperature(TASKS, learnable=True, per_task=True)
    temperature.load_theta({"sts": torch.tensor(math.log(0.05))})
    rows = temperature(["sts", "retrieval", "sts"])
    torch.testing.assert_close(rows, torch.tensor([0.05, 0.02, 0.05]))
    assert Temperature(TASKS, init=0.07)(TASKS).tolist() == pytest.approx([0.07] * 3)


def test_idle_tasks_do_not_drift_when_others_train():
    temperature = Temperature(TASKS, learnable=True, per_task=True)
    optimizer = torch.optim.AdamW(temperature.parameters(), lr=0.1, weight_decay=0.0)
    for tasks in [["sts"], ["retrieval"], ["retrieval"]]:
        before = temperature.values()
        temperature(tasks).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        after = temperature.values()
        assert [name for name in TASKS if before[name] != after[name]] == tasks


def test_projection_restores_the_bounds_and_the_forward_pass_keeps_its_gradient():
    temperature = Temperature(TASKS, learnable=True, minimum=0.01, maximum=0.2)
    temperature.load_theta({"all": torch.tensor(math.log(5.0))})
    temperature(["sts"]).sum().backward()
    assert temperature.theta[0].grad.item() == pytest.approx(5.0)
    temperature.project_()
    assert temperature.values() == pytest.approx({"all": 0.2})


def test_fixed_temperature_has_no_gradient_and_is_not_projected():
    temperature = Temperature(TASKS, init=1.0, maximum=0.2)
    temperature.project_()
    assert temperature.values() == {"all": 1.0}
    assert not temperature(["sts"]).requires_grad


@pytest.mark.parametrize(
    "options", [{"init": 0.5, "learnable": True}, {"init": 0.0}, {"minimum": 0.0}, {"init": -1.0}]
)
def test_impossible_temperatures_are_refused(options: dict):
    with pytest.raises(ValueError, match="temperature"):
        Temperature(TASKS, **options)


def test_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no temperature for task 'ocr'; this stage has retrieval"):
        Temperature(TASKS, per_task=True)(["ocr"])
