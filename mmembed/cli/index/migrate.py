"""`mmembed index migrate`: the rows of an index in another model's space."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmembed.cli.console import (
    Device,
    Model,
    TruncateDim,
    Workers,
    load_embedder,
    say,
    say_failures,
)

__all__ = ["migrate"]


def migrate(
    index: Annotated[str, typer.Argument(help="The index: a folder or another address.")],
    model: Model,
    truncate_dim: TruncateDim = None,
    remove_old: Annotated[
        bool,
        typer.Option(
            "--remove-old", help="Delete the old vectors; whoever still searches them fails."
        ),
    ] = False,
    num_workers: Workers = None,
    device: Device = None,
) -> None:
    """Encode everything in an index again with another model, then switch to it.

    Searches go on with the old vectors until the switch. A run that was stopped goes on where it
    was. Rows that cannot be encoded any more are listed, and the exit code is then 2.

    \b
    Example:
      mmembed index migrate pictures.index --model run/better-model
    """
    from mmembed.search.migration import migrate_index

    summary = migrate_index(
        index,
        embedder=load_embedder(model, device, num_workers),
        dimension=truncate_dim,
        model=str(Path(model).resolve()) if Path(model).exists() else model,
        remove_old=remove_old,
        show_progress_bar=True,
    )
    typer.echo(summary)
    if not remove_old:
        say("the old vectors are kept for whoever has them open; start searches and servers again")
    say_failures([(failure.id, failure) for failure in summary.failures])
