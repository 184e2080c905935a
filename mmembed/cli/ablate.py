"""`mmembed ablate`: which changes of a recipe help, over seeds, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["ablate"]


def ablate(
    ablation: Annotated[
        str, typer.Argument(help="An experiment file, or the name of the bundled one.")
    ] = "ablation",
    output: Annotated[
        Path, typer.Option(help="Folder for results, tables and the report; finished runs stay.")
    ] = Path("ablation"),
    arm: Annotated[
        list[str] | None,
        typer.Option(help="Only this arm and what it is compared with; may be repeated."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=2, help="Only the first N seeds.")] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Processes, each of which trains on one thread.")
    ] = 1,
    list_arms: Annotated[
        bool, typer.Option("--list", help="Show what would run, and stop.")
    ] = False,
) -> None:
    """Train every arm of a grid with several seeds, and compare them in pairs.

    \b
    Examples:
      mmembed ablate --list
      mmembed ablate --arm "hardness 9" --seeds 3 --output hardness
      mmembed ablate --jobs 2
    """
    from mmembed.ablation import grid

    if list_arms:
        from rich.console import Console

        Console().print(grid.arms_table(ablation))
        return
    grid.run(ablation, output=output, arms=arm, seeds=seeds, jobs=jobs)
