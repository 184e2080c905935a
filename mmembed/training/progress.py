"""What people see while a stage trains: one live line for each stage, or now and then a plain one.

A terminal shows bars with loss, tau, tokens per second and the share of time spent waiting for
data. Where the output is no terminal (a file, the log of a job), a line a minute is printed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

__all__ = ["PLAIN_SECONDS", "StageLine", "training_progress"]

PLAIN_SECONDS = 60.0


def training_progress(**options: Any) -> Progress:
    """Progress bars with what training reports; `options` go to `rich.progress.Progress`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        _ReportColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        **options,
    )


class StageLine:
    """The line of one stage.

    Args:
        progress: where; None shows nothing.
        completed: steps that an earlier run of the stage has done.
    """

    def __init__(
        self, progress: Progress | None, label: str, *, total: int, completed: int = 0
    ) -> None:
        self._progress = progress
        self._label = label
        self._total = total
        self._row: Mapping[str, Any] = {}
        self._printed = time.monotonic()
        if progress is not None:
            self._task = progress.add_task(label, total=total, completed=completed)

    def show(self, step: int, loss: float, row: Mapping[str, Any] | None = None) -> None:
        """After each step; `row` is what was logged, which stays until the next one."""
        if self._progress is None:
            return
        self._row = row or self._row
        report = _report(loss, self._row)
        self._progress.update(self._task, completed=step, report=report)
        if self._progress.console.is_terminal or self._progress.disable:
            return
        now = time.monotonic()
        if now - self._printed >= PLAIN_SECONDS or step == self._total:
            self._printed = now
            line = f"{self._label} {step}/{self._total} {report}"
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


class _ReportColumn(ProgressColumn):
    """The report of tasks that have one; other bars may share the display."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("report", ""))


def _report(loss: float, row: Mapping[str, Any]) -> str:
    parts = [f"loss {loss:.3f}"]
    taus = (row.get("temperature") or {}).values()
    if taus:
        low, high = (f"{value:.3g}" for value in (min(taus), max(taus)))
        parts.append(f"tau {low}" if low == high else f"tau {low}-{high}")
    if "tokens_per_second" in row:
        parts.append(f"{_short(row['tokens_per_second'])} tok/s")
    if "data_wait_share" in row:
        parts.append(f"wait {row['data_wait_share']:.0%}")
    if row.get("collapsed"):
        parts.append("COLLAPSED")
    return " ".join(parts)


def _short(value: float) -> str:
    """1234567 -> 1.2M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}"
