"""`mmembed report`: the curves of a training run as a web page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders; several are overlaid.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page; default: training.html in the first run."),
    ] = None,
) -> None:
    """Draw what a run has logged; it may still be training.

    \b
    Examples:
      mmembed report run
      mmembed report before after --output comparison.html
    """
    from mmembed.evaluation.training_curves import write_training_report

    typer.echo(write_training_report(output or runs[0] / "training.html", runs))
