"""A run that is killed anywhere and started again ends in the bytes of the straight run."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmembed.training.step_folders import latest_checkpoint, read_state
from tests.training.fault_client import (
    Command,
    FaultServer,
    digests,
    loss_curve,
    saving,
    steps_logged,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and reads /proc")


def kill_and_restart(
    server: FaultServer, command: Command, tmp_path: Path, *, kills: int, seed: int
) -> None:
    """`kills` times: start, kill while loading, between steps or while saving; then compare."""
    draw = random.Random(seed)
    settings = (f"stages.0.steps={6 * kills}",)
    assert server.start("train", *command("straight", *settings)).wait() == 0
    stage = tmp_path / "run" / "stage1"
    killed = 0
    for number in range(4 * kills):
        attempt = server.start("train", *command("run", *settings))
        kind = ("step", "saving", "saving", "start")[number % 4]
        if kind == "start":
            ended = attempt.kill(delay=draw.uniform(0, 0.6))
        elif kind == "step":
            goal = steps_logged(stage) + draw.randint(1, 5)
            attempt.until(lambda goal=goal: steps_logged(stage) >= goal)
            ended = attempt.kill(delay=draw.uniform(0, 0.03))
        else:
            attempt.until(lambda: saving(stage))
            ended = attempt.kill(delay=draw.uniform(0, 0.06))
        assert ended in (0, -9), attempt.output
        killed += ended == -9
        if killed == kills:
            break
    assert killed == kills
    last = server.start("train", *command("run", *settings))
    assert last.wait() == 0, last.output
    assert loss_curve(stage) == loss_curve(tmp_path / "straight" / "stage1")
    assert [step for step, *_ in loss_curve(stage)] == list(range(1, 6 * kills + 1))
    assert digests(tmp_path / "run" / "model") == digests(tmp_path / "straight" / "model")
    assert not list((tmp_path / "run").rglob("*.tmp-*"))


def test_a_run_killed_four_times_ends_in_the_bytes_of_the_straight_one(
    server: FaultServer, command: Command, tmp_path: Path
):
    kill_and_restart(server, command, tmp_path, kills=4, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_killed_at_25_moments_ends_in_the_bytes_of_the_straight_one(
    server: FaultServer, command: Command, tmp_path: Path, seed: int
):
    kill_and_restart(server, command, tmp_path, kills=25, seed=seed)


def kill_while_saving(server: FaultServer, checkpoint: Path, folder: Path, *, tries: int) -> None:
    draw = random.Random(0)
    folder.mkdir()
    committed = folder / "committed"
    step = 1
    for _ in range(tries):
        attempt = server.start("save_in_a_loop", checkpoint, folder, first=step)
        aim = step + draw.randint(0, 2)
        attempt.until(lambda aim=aim: any(folder.glob(f"*step-{aim:06d}*")))
        assert attempt.kill(delay=draw.uniform(0, 0.05)) == -9, attempt.output
        newest = latest_checkpoint(folder)
        last = int(committed.read_text()) if committed.is_file() else 0
        if newest is None:
            assert last == 0
            continue
        assert read_state(newest).step in (last, last + 1)  # killed before it could say so
        for path in newest.rglob("*.safetensors"):
            for name, tensor in load_file(path).items():
                assert torch.equal(tensor, torch.full_like(tensor, read_state(newest).step)), name
        step = read_state(newest).step + 1


def test_no_kill_while_saving_leaves_a_mixed_checkpoint(
    server: FaultServer, tiny_checkpoint: Path, tmp_path: Path
):
    kill_while_saving(server, tiny_checkpoint, tmp_path / "run", tries=6)


@pytest.mark.slow
def test_none_of_60_kills_while_saving_leaves_a_mixed_checkpoint(
    server: FaultServer, tiny_checkpoint: Path, tmp_path: Path
):
    kill_while_saving(server, tiny_checkpoint, tmp_path / "run", tries=60)
