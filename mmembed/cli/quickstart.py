"""`mmembed quickstart`: the whole pipeline on bundled data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["quickstart"]


def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for models, report and index.")] = Path(
        "quickstart"
    ),
    seed: Annotated[int, typer.Option(help="The same seed gives the same table.")] = 0,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="About how long to train; default: as tuned.")
    ] = None,
) -> None:
    """Train, evaluate and search on bundled data, offline.

    \b
    Example:
      mmembed quickstart --output run
    """
    from mmembed.quickstart import pipeline

    pipeline.run(output=output, seed=seed, minutes=minutes)
