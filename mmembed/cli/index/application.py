"""`mmembed index`: its commands in the order of the help; `index FOLDER` is `index add FOLDER`."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from mmembed.cli.index.add import add
from mmembed.cli.index.info import info
from mmembed.cli.index.migrate import migrate
from mmembed.cli.index.optimize import optimize

__all__ = ["index_commands"]


class _AddUnlessNamed(TyperGroup):
    """What begins with no command of ours is the arguments of `add`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["add", *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


index_commands = typer.Typer(
    cls=_AddUnlessNamed,
    no_args_is_help=True,
    help="Make folders searchable, and care for what makes them so.\n\n\b\n"
    "First steps:\n"
    "  mmembed index ~/Pictures --model run/model --out pictures.index\n"
    "  mmembed index add --help\n"
    "  mmembed index info pictures.index\n"
    "  mmembed index optimize pictures.index\n"
    "  mmembed index migrate pictures.index --model run/better-model",
)

index_commands.command()(add)
index_commands.command()(info)
index_commands.command()(optimize)
index_commands.command()(migrate)
