"""`mmembed recipe list | show | diff | check`: what recipes there are and whether they fit."""

from __future__ import annotations

from typing import Annotated

import typer

from mmembed.cli.console import say

__all__ = ["recipe"]

recipe = typer.Typer(
    no_args_is_help=True,
    help="List, show, compare and check recipes.\n\n\b\nExample:\n  mmembed recipe show tiny",
)

Name = Annotated[str, typer.Argument(help="A recipe file, or the name of a bundled one.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe."),
]


@recipe.command("list")
def list_() -> None:
    """The bundled recipes."""
    from mmembed.config.compare import list_recipes

    found = list_recipes()
    width = max(len(entry.name) for entry in found)
    for entry in found:
        typer.echo(f"{entry.name:{width}}  {entry.summary}")


@recipe.command()
def show(name: Name, overrides: Overrides = None) -> None:
    """A recipe with its base and all defaults, as YAML that loads again.

    \b
    Example:
      mmembed recipe show tiny --set stages.0.steps=50
    """
    from mmembed.config.files import dump_recipe, load_recipe

    typer.echo(dump_recipe(load_recipe(name, overrides=overrides or [])), nl=False)


@recipe.command()
def diff(
    left: Name, right: Annotated[str, typer.Argument(help="The recipe to compare with.")]
) -> None:
    """The settings in which two resolved recipes differ.

    \b
    Example:
      mmembed recipe diff tiny my_recipe.yaml
    """
    from mmembed.config.compare import differences, side_by_side
    from mmembed.config.files import load_recipe

    found = differences(load_recipe(left), load_recipe(right))
    if not found:
        typer.echo("no differences")
        return
    for line in side_by_side(found, (left, right)):
        typer.echo(line)


@recipe.command()
def check(name: Name, overrides: Overrides = None) -> None:
    """Whether the data of a recipe give what its losses ask for.

    \b
    Example:
      mmembed recipe check tiny
    """
    from mmembed.config.files import load_recipe
    from mmembed.data.conformance import check_recipe

    for stage in check_recipe(load_recipe(name, overrides=overrides or [])).stages:
        typer.echo(f"{stage.name}: {stage.summary}")
        for warning in stage.warnings:
            say(f"warning: {stage.name}: {warning}")
