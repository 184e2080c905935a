"""The log has each step once, also after a crash and a restart; its rows say all they should."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmembed.config.recipe import Recipe
from mmembed.training.metrics import (
    MetricsLog,
    StepClock,
    numbers,
    peak_memory_bytes,
    read_metrics,
)
from mmembed.training.stages import train


def write(path: Path, *steps: int, from_step: int = 0, enabled: bool = True, **options) -> None:
    with MetricsLog(path, from_step=from_step, enabled=enabled, **options) as log:
        for step in steps:
            log.write(step=step, loss=0.5)


def steps(path: Path) -> list[int]:
    return [row["step"] for row in read_metrics(path)]


def test_rows_that_a_resumed_run_repeats_are_dropped(tmp_path: Path):
    path = tmp_path / "run" / "metrics.jsonl"
    write(path, 0, 1, 2, 3)
    write(path, 3, 4, from_step=2)
    assert steps(path) == [0, 1, 2, 3, 4]
    write(path, 0, 1)
    assert steps(path) == [0, 1]


def test_line_that_a_crash_cut_off_is_left_out(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 2)
    path.write_text(path.read_text() + '{"step": 3, "lo')
    assert steps(path) == [1, 2]
    write(path, 3, from_step=2)
    assert steps(path) == [1, 2, 3]


def test_other_processes_write_nothing(tmp_path: Path):
    mirrored: list[object] = []
    write(tmp_path / "metrics.jsonl", 1, enabled=False, mirror=mirrored.append)
    assert list(tmp_path.iterdir()) == mirrored == []


def test_the_mirror_gets_what_is_written(tmp_path: Path):
    mirrored: list[object] = []
    write(tmp_path / "metrics.jsonl", 1, 2, mirror=mirrored.append)
    assert mirrored == read_metrics(tmp_path / "metrics.jsonl")


def test_numbers_come_back_exactly(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(step=1, loss=0.1 + 0.2)
    assert read_metrics(path)[0]["loss"] == 0.1 + 0.2


def test_clock_counts_since_the_last_reading():
    clock = StepClock(num_processes=2)
    clock.count(100, 8, "retrieval", 1.0)
    clock.count(100, 8, "sts", 5.0)
    clock.count(100, 8, "retrieval", 2.0)
    reading = clock.read(0.0)
    assert reading["task_loss"] == {"retrieval": 1.5, "sts": 5.0}
    assert reading["tokens_per_second"] / reading["samples_per_second"] == pytest.approx(600 / 24)
    assert clock.read(0.0) == {
        "task_loss": {},
        "tokens_per_second": 0.0,
        "samples_per_second": 0.0,
        "data_wait_share": 0.0,
    }


def test_time_of_evaluations_is_no_training_time(monkeypatch: pytest.MonkeyPatch):
    now = iter([0.0, 10.0, 16.0, 20.0])
    clock_of_test = SimpleNamespace(perf_counter=lambda: next(now))
    monkeypatch.setattr("mmembed.training.metrics.time", clock_of_test)
    clock = StepClock()
    with clock.paused():
        clock.count(140, 28, "retrieval", 1.0)
    reading = clock.read(3.5)
    assert (reading["tokens_per_second"], reading["data_wait_share"]) == (10.0, 0.25)


def test_tensors_become_numbers():
    metrics = {"count": torch.tensor(3), "share": torch.tensor(0.25, requires_grad=True)}
    assert numbers(metrics) == {"count": 3.0, "share": 0.25}
    assert numbers({}) == {}


def test_peak_memory_does_not_fall():
    device = torch.device("cpu")
    before = peak_memory_bytes(device)
    held = torch.ones(2**22)
    during = peak_memory_bytes(device)
    del held
    assert 2**24 < before <= during <= peak_memory_bytes(device)


ALWAYS = {
    "step", "epoch", "source", "loss", "task_loss", "learning_rate", "grad_norm", "temperature",
    "tokens_per_second", "samples_per_second", "data_wait_share", "peak_memory_bytes",
    "masked_fraction", "hardness_weight_mean", "hardness_weight_max", "positive_similarity_q05",
    "positive_similarity_q50", "positive_similarity_q95", "negative_similarity_q05",
    "negative_similarity_q50", "negative_similarity_q95", "alignment", "uniformity",
    "document_similarity", "duplicate_fraction", "collapsed",
}  # fmt: skip


def test_every_logged_row_of_a_run_says_all_of_it(tiny_checkpoint: Path, tmp_path: Path):
    def entry(task: str, pictures: bool) -> dict[str, object]:
        arguments = {"pictures": pictures, "task": task, "size": 12, "hard_negatives": 1}
        return {"adapter": "tests.training.pairs:ColourPairs", "arguments": arguments}

    recipe = Recipe.model_validate(
        {
            "model": {"path": str(tiny_checkpoint), "image_tokens": {"min": 1, "max": 4}},
            "stages": [
                {
                    "data": [entry("retrieval", False), entry("sts", True)],
                    "epochs": 1,
                    "batch_size": 5,
                    "log_every": 4,
                    "loss": {"hardness": {"alpha": 2.0}},
                    "temperature": {"learnable": True, "per_task": True},
                }
            ],
        }
    )
    train(recipe, output=tmp_path, cpu=True)
    rows = read_metrics(tmp_path / "stage1" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [4, 6]
    for row in rows:
        assert ALWAYS <= set(row), ALWAYS - set(row)
        assert set(row["temperature"]) == {"retrieval", "sts"}
        assert row["hardness_weight_mean"] < row["hardness_weight_max"]
    assert {task for row in rows for task in row["task_loss"]} == {"retrieval", "sts"}
