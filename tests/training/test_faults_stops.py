"""Signals, full disks and NaN end `mmembed train` with an exit code, and nothing is lost."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmembed.store.durable import lock_folder
from mmembed.training.interrupts import stop_requests
from mmembed.training.metrics import read_metrics
from mmembed.training.step_folders import checkpoints, latest_checkpoint, read_manifest
from tests.training.fault_client import (
    Attempt,
    Command,
    FaultServer,
    digests,
    loss_curve,
    steps_logged,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and reads /proc")
STEPS = "stages.0.steps=12"


def stop_at(attempt: Attempt, reached: Callable[[], bool], number: int) -> int:
    attempt.until(reached)
    return attempt.kill(number=number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_answered_with_a_checkpoint_and_the_run_goes_on_bit_by_bit(
    server: FaultServer, command: Command, tmp_path: Path, number: int, code: int
):
    assert server.start("train", *command("straight", STEPS)).wait() == 0
    stage = tmp_path / "run" / "stage1"
    attempt = server.start("train", *command("run", STEPS, "stages.0.save_every=100"))
    assert stop_at(attempt, lambda: steps_logged(stage) >= 3, number) == code, attempt.output
    assert "run the same command again to go on" in attempt.output
    (kept,) = checkpoints(stage)
    assert kept.name == f"step-{steps_logged(stage):06d}"
    again = server.start("train", *command("run", STEPS), "--resume", "must")
    assert again.wait() == 0, again.output
    assert loss_curve(stage) == loss_curve(tmp_path / "straight" / "stage1")
    weights = [digests(tmp_path / run / "model") for run in ("run", "straight")]
    assert weights[0]["model.safetensors"] == weights[1]["model.safetensors"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, 70)])
def test_a_second_signal_has_its_usual_effect(server: FaultServer, number: int, code: int):
    attempt = server.start("insist", int(number))
    assert attempt.wait() == code
    assert "asked once" in attempt.output
    assert ("KeyboardInterrupt" in attempt.output) == (number == signal.SIGINT)


def test_a_signal_that_a_launcher_repeats_is_one_request():
    # a shell that starts the tests in the background has them ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with stop_requests() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_no_space_leaves_the_checkpoints_and_no_rest_however_often_it_is_tried(
    server: FaultServer, command: Command, tmp_path: Path, tiny_checkpoint: Path
):
    run = command("run", STEPS, "stages.0.keep_checkpoints=2")
    stage = tmp_path / "run" / "stage1"
    attempt = server.start("train", *run)
    assert stop_at(attempt, lambda: bool(checkpoints(stage)), signal.SIGTERM) == 143
    before = digests(stage)
    del before["metrics.jsonl"]
    room = (tiny_checkpoint / "model.safetensors").stat().st_size // 2
    for _ in range(3):
        attempt = server.start("train", *run, file_size=room)
        assert attempt.wait() == 2, attempt.output
        assert "could not be written" in attempt.output and "Traceback" not in attempt.output
        kept = digests(stage)
        del kept["metrics.jsonl"]  # the steps since have been repeated
        assert kept == before
        assert not list((tmp_path / "run").rglob("*.tmp-*"))
    assert server.start("train", *run).wait() == 0
    assert server.start("train", *command("straight", STEPS)).wait() == 0
    assert loss_curve(stage) == loss_curve(tmp_path / "straight" / "stage1")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a disk")
def test_a_full_disk_leaves_the_checkpoints_and_the_run_goes_on_when_there_is_room(
    server: FaultServer, command: Command, tmp_path: Path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    attempt = server.start("train_on_a_small_disk", disk, *command("disk/run", "stages.0.steps=40"))
    code = attempt.wait()
    if "PermissionError" in attempt.output or "Operation not permitted" in attempt.output:
        pytest.skip("may not mount")
    assert code == 0, attempt.output


def test_divergence_ends_with_code_3_and_names_step_data_and_rows(
    server: FaultServer, command: Command, tmp_path: Path
):
    attempt = server.start(
        "train", *command("run", "stages.0.learning_rate=1e36", "stages.0.save_every=1")
    )
    assert attempt.wait() == 3, attempt.output
    assert "error: step 2 (names: rows " in attempt.output
    assert "Traceback" not in attempt.output
    stage = tmp_path / "run" / "stage1"
    row = read_metrics(stage / "metrics.jsonl")[-1]
    assert row["step"] == 2 and len(row["rows"]["names"]) == 6
    newest = latest_checkpoint(stage)
    assert newest is not None and newest.name == "step-000001"


def test_a_second_run_in_the_same_folder_is_refused(
    server: FaultServer, command: Command, tmp_path: Path
):
    (tmp_path / "run").mkdir()
    with lock_folder(tmp_path / "run", wait=False):
        attempt = server.start("train", *command("run"))
        assert attempt.wait() == 2
    assert "another process is writing to" in attempt.output


def test_resume_never_and_must(server: FaultServer, command: Command, tmp_path: Path):
    fresh = server.start("train", *command("run"), "--resume", "must")
    assert fresh.wait() == 2 and "holds no run to continue" in fresh.output
    first = server.start("train", *command("run"), "--resume", "never")
    assert first.wait() == 0, first.output
    again = server.start("train", *command("run"), "--resume", "never")
    assert again.wait() == 2 and "holds a run" in again.output
    assert server.start("train", *command("run"), "--resume", "must").wait() == 0
    read_manifest(tmp_path / "run" / "model")
