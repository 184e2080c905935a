"""`mmembed train`: the stages of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["train"]


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a bundled one.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for checkpoints.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe."),
    ] = None,
) -> None:
    """Run the stages of a recipe.

    \b
    Example:
      mmembed train tiny --output run --set stages.0.steps=50
    """
    from rich.console import Console

    from mmembed.config.files import load_recipe
    from mmembed.training import stages

    resolved = load_recipe(recipe, overrides=overrides or [])
    with stages.training_progress(console=Console(stderr=True)) as progress:
        result = stages.train(resolved, output=output, progress=progress)
    typer.echo(result.model)
    if result.interrupted:
        raise KeyboardInterrupt
