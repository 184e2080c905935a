"""The log has each step once, also after a crash and a restart."""

from __future__ import annotations

from pathlib import Path

from mmembed.training.metrics import MetricsLog, StepClock, read_metrics


def write(path: Path, *steps: int, from_step: int = 0, enabled: bool = True) -> None:
    with MetricsLog(path, from_step=from_step, enabled=enabled) as log:
        for step in steps:
            log.write(step=step, loss=0.5)


def steps(path: Path) -> list[int]:
    return [row["step"] for row in read_metrics(path)]


def test_rows_that_a_resumed_run_repeats_are_dropped(tmp_path: Path):
    path = tmp_path / "run" / "metrics.jsonl"
    write(path, 1, 2, 3)
    write(path, 3, 4, from_step=2)
    assert steps(path) == [1, 2, 3, 4]


def test_line_that_a_crash_cut_off_is_left_out(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 2)
    path.write_text(path.read_text() + '{"step": 3, "lo')
    assert steps(path) == [1, 2]
    write(path, 3, from_step=2)
    assert steps(path) == [1, 2, 3]


def test_other_processes_write_nothing(tmp_path: Path):
    write(tmp_path / "metrics.jsonl", 1, enabled=False)
    assert list(tmp_path.iterdir()) == []


def test_numbers_come_back_exactly(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(step=1, loss=0.1 + 0.2)
    assert read_metrics(path)[0]["loss"] == 0.1 + 0.2


def test_clock_counts_since_the_last_reading():
    clock = StepClock()
    clock.add_tokens(100)
    assert clock.read(0.0)["tokens_per_second"] > 0
    assert clock.read(0.0) == {"tokens_per_second": 0.0, "data_wait_share": 0.0}
