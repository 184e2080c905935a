"""The order of events of `mmembed ablate`. What is finished in the output folder is not run again.

output/
  results.jsonl      one line for each finished run
  table.md           differences, intervals, noise
  report.html        the same with plots
  starts/            untrained models and common first stages of each seed, kept for later arms
  unfinished/        trainings that were interrupted
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from mmembed.ablation import report
from mmembed.ablation.plan import Ablation, load_ablation
from mmembed.ablation.runs import Results, each_result, execute, make_start, starts
from mmembed.encoder.identity import package_versions
from mmembed.store.durable import lock_folder

__all__ = ["arms_table", "run"]

RESULTS_FILE = "results.jsonl"
TABLE_FILE = "table.md"
REPORT_FILE = "report.html"


def run(
    ablation: str = "ablation",
    *,
    output: Path,
    arms: Sequence[str] | None = None,
    seeds: int | None = None,
    jobs: int = 1,
) -> Path:
    """Run what is missing of a grid, and write its tables and page, after Ctrl-C too.

    Args:
        ablation: name or path of the experiment file.
        output: folder for everything; an interrupted grid continues there.
        arms: only these, and what they are compared with.
        seeds: only the first ones.
        jobs: processes, each of which trains on one thread.

    Returns:
        The path of the HTML report.

    Raises:
        ConfigError: the file, an override, an arm or a number does not fit.
        KeyboardInterrupt: after everything that is finished was written down.
    """
    plan = load_ablation(ablation).narrowed(arms, seeds)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    with lock_folder(output, wait=False):
        results = Results(output / RESULTS_FILE, plan)
        try:
            _run_missing(plan, results, output, jobs, console)
        finally:
            page = _write(plan, results, output)
    for problem in plan.problems:
        console.print(report.terminal_table(plan, results.records, problem.name))
    for line in (f"Table:  {output / TABLE_FILE}", f"Report: {page}"):
        console.print(line, markup=False, soft_wrap=True)
    return page


def arms_table(ablation: str = "ablation") -> Table:
    """What an experiment file would run."""
    plan = load_ablation(ablation)
    table = Table(
        title=f"{len(plan.runs())} runs: {len(plan.runs()) // len(plan.seeds)} arms on problems, "
        f"{len(plan.seeds)} seeds",
        title_justify="left",
    )
    for column in ("arm", "against", "problems", "changes"):
        table.add_column(column)
    for arm in plan.arms:
        table.add_row(
            arm.name,
            ", ".join(plan.references_of(arm)),
            ", ".join(plan.problems_of(arm)),
            "\n".join(arm.set).replace("[", "\\["),
        )
    return table


def _run_missing(
    plan: Ablation, results: Results, output: Path, jobs: int, console: Console
) -> None:
    missing = [each for each in plan.runs() if each not in results.records]
    points = starts(plan, missing, output)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=600,
    ) as progress:
        if points:
            bar = progress.add_task("starting points", total=len(points))
            for _ in each_result(make_start, plan, points, output, jobs=jobs):
                progress.advance(bar)
        if missing:
            total = len(plan.runs())
            bar = progress.add_task("runs", total=total, completed=total - len(missing))
            for record in each_result(execute, plan, missing, output, jobs=jobs):
                results.add(record)
                progress.advance(bar)


def _write(plan: Ablation, results: Results, output: Path) -> Path:
    report.write_markdown(output / TABLE_FILE, plan, results.records)
    environment = {
        "machine": f"{platform.machine()}, {os.cpu_count()} logical cores, "
        f"{torch.get_num_threads()} threads, {platform.system()}",
        "seeds": ", ".join(map(str, plan.seeds)),
        **package_versions(),
    }
    return report.write_html(output / REPORT_FILE, plan, results.records, environment=environment)
