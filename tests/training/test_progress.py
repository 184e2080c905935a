"""The live line of a stage: complete on a terminal, rare elsewhere."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from mmembed.training import progress
from mmembed.training.progress import StageLine, training_progress

ROW = {
    "temperature": {"a": 0.02, "b": 0.05},
    "tokens_per_second": 12_345.0,
    "data_wait_share": 0.125,
    "collapsed": False,
}


def shown(*, terminal: bool, rows: int = 300) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=160)
    with training_progress(console=console, auto_refresh=False) as bars:
        line = StageLine(bars, "stage1", total=rows)
        for step in range(1, rows + 1):
            line.show(step, 1.5, ROW if step % 10 == 0 else None)
        bars.refresh()
    return output.getvalue()


def test_a_terminal_shows_loss_tau_speed_and_waiting():
    output = shown(terminal=True)
    assert "loss 1.500 tau 0.02-0.05 12.3k tok/s wait 12%" in output
    assert "stage1 300/300" not in output  # the plain line


def test_a_file_gets_one_line_at_the_end_of_a_short_stage():
    lines = [line for line in shown(terminal=False).splitlines() if line.startswith("stage1 300/")]
    assert lines == ["stage1 300/300 loss 1.500 tau 0.02-0.05 12.3k tok/s wait 12%"]
    assert len(shown(terminal=False).splitlines()) <= 3


def test_a_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch):
    now = iter(range(0, 10_000))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(now)))
    plain = [
        line for line in shown(terminal=False).splitlines() if "stage1 " in line and "/300 " in line
    ]
    assert 3 <= len(plain) <= 7  # a clock that ticks once a step: 300 s, a line each 60 s


def test_nobody_looks():
    StageLine(None, "stage1", total=3).show(1, 0.5)


def test_collapse_is_said_and_fixed_temperatures_are_one_number():
    report = progress._report(0.5, {"temperature": {"all": 0.05}, "collapsed": True})
    assert report == "loss 0.500 tau 0.05 COLLAPSED"
