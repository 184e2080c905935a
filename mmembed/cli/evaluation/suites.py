"""`mmembed eval suites`: which suites there are, and the tasks of one."""

from __future__ import annotations

from typing import Annotated

import typer

from mmembed.cli.console import say

__all__ = ["suites"]


def suites(
    suite: Annotated[
        str | None, typer.Argument(help="Show the tasks of this suite; a name or a file.")
    ] = None,
) -> None:
    """The bundled suites, or the tasks of one. Needs no data.

    \b
    Examples:
      mmembed eval suites
      mmembed eval suites mmeb-v2
    """
    from mmembed.evaluation.suites import list_suites, load_suite

    if suite is None:
        found = list_suites()
        width = max(map(len, found), default=0)
        for name in found:
            typer.echo(f"{name:{width}}  {load_suite(name).config.summary}")
        return
    cards = load_suite(suite).open(cards_only=True).cards.values()
    width = max(len(card.name) for card in cards)
    for card in cards:
        typer.echo(
            f"{card.name:{width}}  {card.modality:7} {card.group:8} {card.main_metric:13} "
            f"{card.source}"
        )
    say(f"{len(cards)} tasks")
