"""`mmembed eval compare`: is one run better than another, or could the queries explain it?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmembed.cli.console import printable, say
from mmembed.errors import ConfigError

if TYPE_CHECKING:
    from mmembed.evaluation.comparison import Comparison

__all__ = ["compare"]

_TIES = Literal["pessimistic", "official", "docid"]


def compare(
    first: Annotated[Path, typer.Argument(help="Results of the reference: its --out folder.")],
    second: Annotated[Path, typer.Argument(help="Results of what is judged.")],
    fail_on_regression: Annotated[
        bool,
        typer.Option(
            "--fail-on-regression/--no-fail-on-regression",
            help="End with code 1 when SECOND is significantly worse in any row.",
        ),
    ] = True,
    tolerance: Annotated[
        float,
        typer.Option(min=0, help="Points of a loss that are accepted although significant."),
    ] = 0.0,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Compare the tasks that both have, and those both lack media of."
        ),
    ] = False,
    ties: Annotated[_TIES, typer.Option(help="How equal scores are ordered.")] = "pessimistic",
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    form: Annotated[
        Literal["table", "md", "csv", "json"], typer.Option("--format", help="What to print.")
    ] = "table",
) -> None:
    """Compare two runs query by query (paired bootstrap), for each task and each mean.

    Both must have judged the same tasks over the same queries; otherwise what differs is named.
    A row is called better or worse when p <= 0.05, adjusted for all rows by Holm's rule.

    \b
    Exit codes: 0 no significant loss, 1 SECOND is significantly worse somewhere (by more than
    --tolerance points), 2 the runs cannot be compared.

    \b
    Examples:
      mmembed eval compare results/before results/after
      mmembed eval compare results/before results/after --tolerance 0.5 --format md
    """
    from mmembed.evaluation import tables
    from mmembed.evaluation.comparison import compare_runs
    from mmembed.evaluation.results import read_results

    if first.resolve() == second.resolve():
        raise ConfigError(f"{first} is given twice")
    runs = [read_results(folder, with_queries=True) for folder in (first, second)]
    for run in runs:
        if run.unrecorded:
            say(
                printable(
                    f"{run.folder}: {', '.join(run.unrecorded)} not yet in run.json, left out"
                )
            )
    found = compare_runs(*runs, ties=ties, partial=partial, seed=seed)
    if form == "table":
        _print(found)
    elif form == "md":
        typer.echo(tables.comparison_markdown(found), nl=False)
    elif form == "csv":
        typer.echo(tables.comparison_csv(found), nl=False)
    else:
        typer.echo(json.dumps(tables.comparison_json(found), indent=2))
    lost = found.regressions(tolerance / 100)
    if lost:
        say(f"significantly worse: {', '.join(printable(row.title) for row in lost)}")
        if fail_on_regression:
            raise typer.Exit(1)


def _print(found: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mmembed.evaluation.tables import COMPARISON_COLUMNS, comparison_rows

    table = Table(title=f"second - first, in points; ties {found.ties}", title_justify="left")
    for number, column in enumerate(COMPARISON_COLUMNS):
        table.add_column(column, justify="right" if 0 < number < 8 else "left")
    for row in comparison_rows(found):
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console()
    console.print(table) if console.is_terminal else Console(width=160).print(table)
    for side, name in zip(("first", "second"), found.names, strict=True):
        say(printable(f"{side}: {name}"))
    for note in found.notes:
        say(printable(note))
