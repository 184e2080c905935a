"""One look for all progress bars, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["progress_bar", "shown_progress"]


@contextmanager
def progress_bar(
    label: str, total: int, *, unit: str, report: Callable[[], str] = str
) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; yields `advance(count)`. `report` says what stands in it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]} {task.fields[report]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total, rate="", report="")

        def advance(count: int) -> None:
            progress.advance(task, count)
            speed = progress.tasks[task].speed
            rate = f"{speed:.0f}/s" if speed else ""
            progress.update(task, rate=rate, report=report())

        yield advance


@contextmanager
def shown_progress(
    show: bool | None, label: str, total: int, unit: str
) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; None shows it to people only."""
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda count: None
        return
    with progress_bar(label, total, unit=unit) as advance:
        yield advance
