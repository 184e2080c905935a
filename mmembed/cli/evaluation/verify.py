"""`mmembed eval verify`: are stored vectors what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmembed.cli.console import SHOWN_FAILURES, say

__all__ = ["verify"]


def verify(
    store: Annotated[Path, typer.Argument(help="A folder given as --store, or OUT/vectors.")],
) -> None:
    """Read every byte of a store again: counts, checksums, finite rows of length 1.

    \b
    Example:
      mmembed eval verify results/mine/vectors
    """
    from mmembed.evaluation.vectors import verify_store

    count, problems = verify_store(store)
    for problem in problems[:SHOWN_FAILURES]:
        say(f"  {problem}")
    if len(problems) > SHOWN_FAILURES:
        say(f"  and {len(problems) - SHOWN_FAILURES:,} more")
    typer.echo(f"{count:,} vectors, {len(problems):,} problems")
    raise typer.Exit(2 if problems else 0)
