"""`mmembed eval fetch`: the data of mteb's tasks, for machines without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmembed.cli.console import say
from mmembed.errors import ConfigError

__all__ = ["fetch"]


def fetch(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the snapshots and the map.")],
    benchmark: Annotated[
        str | None, typer.Option("--benchmark", "-b", help="Of mteb, or a short name.")
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--tasks", "-t", help="A task of mteb; repeatable.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="With tasks whose data need an account.")
    ] = False,
    beta: Annotated[bool, typer.Option("--beta", help="Allow --tasks that are in beta.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be downloaded.")
    ] = False,
) -> None:
    """Download what tasks of mteb need, and write the map for `eval mteb --localize`.

    Run it where there is a network, copy the folder, and run the benchmark anywhere. Every data
    set is a snapshot at the revision that mteb names, with a sha256 of its content. A download
    that was cut goes on when the command is given again.

    \b
    Examples:
      mmembed eval fetch --benchmark vidore-v2 --dry-run --out data
      mmembed eval fetch --benchmark vidore-v2 --out data
      mmembed eval mteb --benchmark vidore-v2 --localize data/map.json --model M --out results
    """
    from mmembed.evaluation.mteb_runs.benchmarks import choose_tasks, find_benchmark, find_tasks
    from mmembed.evaluation.mteb_runs.fetch import fetch as download
    from mmembed.evaluation.mteb_runs.fetch import plan_fetch
    from mmembed.evaluation.mteb_runs.metadata import MODALITIES
    from mmembed.progress import shown_progress

    if (benchmark is None) == (not tasks):
        raise ConfigError("give --benchmark or --tasks; `mmembed eval mteb --list` shows names")
    listed = find_tasks(tasks or [], beta=beta) if benchmark is None else find_benchmark(benchmark)
    chosen = choose_tasks(listed, modalities=MODALITIES, public_only=not private)
    for name, reason in chosen.left_out.items():
        say(f"left out: {name}: {reason}")
    snapshots = plan_fetch(chosen.tasks)
    if dry_run:
        for snapshot in snapshots:
            typer.echo(f"{snapshot.key}  {', '.join(snapshot.tasks)}")
        return
    with shown_progress(None, "fetching", len(snapshots), "data sets") as advance:
        path = download(snapshots, out, on_progress=lambda snapshot: advance(1))
    say(f"use it with: mmembed eval mteb --localize {path}")
