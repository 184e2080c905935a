"""`mmembed eval selfcheck`: the evaluator's promises on this machine."""

from __future__ import annotations

import typer

from mmembed.cli.console import say

__all__ = ["selfcheck"]


def selfcheck() -> None:
    """Check metrics, ties, refusals and a small suite from end to end; no data, no model.

    Prints a line for each check; the exit code is 1 when one fails.

    \b
    Example:
      mmembed eval selfcheck
    """
    from mmembed.evaluation import selfcheck as checks

    failed = 0
    for outcome in checks.selfcheck():
        failed += outcome.problem is not None
        word = "ok    " if outcome.problem is None else "FAILED"
        typer.echo(f"{word}  {outcome.name}: {outcome.problem or outcome.detail}")
    say(f"{len(checks.CHECKS) - failed} of {len(checks.CHECKS)} checks passed")
    raise typer.Exit(1 if failed else 0)
