"""`mmembed eval export-official`: the vectors of a run as the files of the public scorers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmembed.cli.console import say

__all__ = ["export_official"]


def export_official(
    run: Annotated[
        Path, typer.Option("--out", help="Folder of a run: --out of `mmembed eval run`.")
    ],
    to: Annotated[Path, typer.Option(help="Folder for the three files of each data set.")],
    only: Annotated[
        list[str] | None, typer.Option(help="A task by name; may be repeated. Default: all.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="The suite of the run, where it is a file of your own.")
    ] = None,
) -> None:
    """Write NAME_qry, NAME_tgt and NAME_info.jsonl for each task of a run.

    With these files the public scorers of MMEB skip encoding and compute their scores, bit for bit
    from the vectors of the run. Tasks of pairs (STS) have no such form and are left out.

    \b
    Example:
      mmembed eval export-official --out results/M --to embeddings
      mmembed eval score --dir embeddings --ties official
    """
    from mmembed.evaluation.official_files import write_official
    from mmembed.evaluation.runs import stored_tasks
    from mmembed.tasks import RetrievalTask

    for card, loaded, queries, documents in stored_tasks(run, only=only or (), suite=suite):
        if isinstance(loaded.task, RetrievalTask):
            write_official(to, card.name, loaded.task, queries, documents)
            typer.echo(card.name)
        else:
            say(f"{card.name} has pairs, for which there is no such form; left out")
