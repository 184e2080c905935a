"""The application: its commands in the order of the help, and how errors end it.

Nothing heavy is imported before a command runs, so that `mmembed --help` answers at once. Exit
codes: 0 all done, 2 refused or done with failed items, 3 training diverged, 130 interrupted by
Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mmembed import __version__
from mmembed.cli.ablate import ablate
from mmembed.cli.console import say
from mmembed.cli.data.application import data
from mmembed.cli.demo import demo
from mmembed.cli.encode import encode
from mmembed.cli.evaluation.application import evaluation
from mmembed.cli.export import export
from mmembed.cli.filter import filter_pairs
from mmembed.cli.index.application import index_commands
from mmembed.cli.launch import launch
from mmembed.cli.mine import mine
from mmembed.cli.plan import plan
from mmembed.cli.quickstart import quickstart
from mmembed.cli.rank import rank
from mmembed.cli.recipe import recipe
from mmembed.cli.report import report
from mmembed.cli.search import search
from mmembed.cli.serve import serve
from mmembed.cli.soup import soup, soup_card
from mmembed.cli.synthesize import synthesize
from mmembed.cli.train import train
from mmembed.errors import MMEmbedError, TrainingDiverged

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Turns the errors that mmembed raises on purpose into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        if ctx.params.get("debug"):
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted; run the same command again to go on")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # `mmembed search ... | head`: typer ends quietly
            raise
        except TrainingDiverged as error:
            say(f"error: {error}")
            raise typer.Exit(3) from None
        except (MMEmbedError, OSError) as error:
            say(f"error: {error}")
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The console script."""
    app(prog_name="mmembed")


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"mmembed {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Text, images, video and document pages in one vector space.

    \b
    First steps:
      mmembed quickstart --output run
      mmembed index ~/Pictures --model run/model --out pictures.index
      mmembed search pictures.index "a dog in the snow"
    """


for _command in (
    quickstart,
    plan,
    train,
    launch,
    report,
    soup,
    soup_card,
    encode,
    rank,
    search,
    serve,
    demo,
    export,
    ablate,
    mine,
):
    app.command()(_command)
app.command("filter")(filter_pairs)
app.command()(synthesize)
app.add_typer(index_commands, name="index")
app.add_typer(recipe, name="recipe")
app.add_typer(evaluation, name="eval")
app.add_typer(data, name="data")
