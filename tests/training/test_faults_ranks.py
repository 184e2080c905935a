"""Two processes: they stop together, go on together, and another number of them continues."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmembed.training.step_folders import checkpoints
from tests.training.fault_client import (
    Attempt,
    Command,
    FaultServer,
    digests,
    loss_curve,
    steps_logged,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and reads /proc")
# A low learning rate, because steps amplify the rounding of other numbers of processes.
STEPS = ("stages.0.steps=12", "stages.0.save_every=3", "stages.0.learning_rate=1e-4")


@pytest.fixture
def two(server: FaultServer, command: Command, tmp_path: Path) -> Callable[..., Attempt]:
    def start(output: str, **options: Any) -> Attempt:
        (tmp_path / "pids").unlink(missing_ok=True)
        return server.start("ranks", 2, tmp_path, *command(output, *STEPS), **options)

    return start


def ends(folder: Path) -> tuple[list[int], float]:
    found = json.loads((folder / "ends").read_text())
    return found["codes"], found["seconds"]


def printed(folder: Path) -> str:
    return "".join((folder / f"{rank}.txt").read_text() for rank in (0, 1))


def kill_rank(attempt: Attempt, folder: Path, rank: int, number: int, *, step: int) -> None:
    """Send a signal to one of the processes after a step; wait for the end of both."""
    pids, stage = folder / "pids", folder / "run" / "stage1"
    attempt.until(lambda: pids.is_file() and steps_logged(stage) >= step)
    os.kill(int(pids.read_text().split()[rank]), number)
    attempt.wait()


def test_when_one_rank_is_killed_the_other_ends_and_a_restart_loses_nothing(
    two: Callable[..., Attempt], tmp_path: Path
):
    assert two("straight").wait() == 0, printed(tmp_path)
    stage = tmp_path / "run" / "stage1"
    for rank, at in ((1, 4), (0, 7)):
        kill_rank(two("run"), tmp_path, rank, signal.SIGKILL, step=at)
        codes, seconds = ends(tmp_path)
        assert codes[rank] == -9 and codes[1 - rank] not in (0, -9)
        assert seconds < 60
    assert two("run").wait() == 0, printed(tmp_path)
    assert loss_curve(stage) == loss_curve(tmp_path / "straight" / "stage1")
    assert digests(tmp_path / "run" / "model") == digests(tmp_path / "straight" / "model")


def test_a_signal_to_one_rank_stops_both_with_a_checkpoint(
    two: Callable[..., Attempt], tmp_path: Path
):
    stage = tmp_path / "run" / "stage1"
    kill_rank(two("run"), tmp_path, 1, signal.SIGTERM, step=4)
    assert ends(tmp_path)[0] == [143, 143], printed(tmp_path)
    assert checkpoints(stage)[-1].name == f"step-{steps_logged(stage):06d}"


def test_nan_on_one_rank_stops_both_before_the_weights_change(
    two: Callable[..., Attempt], tmp_path: Path
):
    attempt = two("run", nan=(1, 4))
    attempt.wait()
    assert ends(tmp_path)[0] == [3, 3], printed(tmp_path)
    assert printed(tmp_path).count("error: step 4 (names: rows ") == 2
    (newest,) = checkpoints(tmp_path / "run" / "stage1")
    assert newest.name == "step-000003"
    assert all(
        tensor.isfinite().all() for tensor in load_file(newest / "model.safetensors").values()
    )


def test_a_failed_save_of_the_first_rank_stops_both(
    server: FaultServer, command: Command, tmp_path: Path
):
    (tmp_path / "run" / "stage1").mkdir(parents=True)
    (tmp_path / "run" / "stage1" / "step-000003").write_text("in the way")
    attempt = server.start("ranks", 2, tmp_path, *command("run", *STEPS))
    attempt.wait()
    assert ends(tmp_path)[0] == [2, 2], printed(tmp_path)


def test_one_two_and_one_processes_train_as_one(
    server: FaultServer, command: Command, two: Callable[..., Attempt], tmp_path: Path
):
    one = command("run", *STEPS)
    assert server.start("train", *command("straight", *STEPS)).wait() == 0
    stage = tmp_path / "run" / "stage1"
    for at, processes in ((2, 2), (5, 1), (8, 2)):
        if processes == 2:
            kill_rank(two("run"), tmp_path, 0, signal.SIGTERM, step=at)
        else:
            attempt = server.start("train", *one)
            attempt.until(lambda at=at: steps_logged(stage) >= at)
            attempt.kill(number=signal.SIGTERM)
    assert server.start("train", *one).wait() == 0
    found, expected = loss_curve(stage), loss_curve(tmp_path / "straight" / "stage1")
    assert [step for step, *_ in found] == [step for step, *_ in expected]
    losses = [
        torch.tensor([float.fromhex(loss) for _, loss, _ in each]) for each in (found, expected)
    ]
    torch.testing.assert_close(*losses, atol=1e-5, rtol=0)
