"""`mmembed data`: its commands in the order of the help."""

from __future__ import annotations

import typer

from mmembed.cli.data.check import check
from mmembed.cli.data.convert import convert
from mmembed.cli.data.fetch import fetch
from mmembed.cli.data.list import list_datasets
from mmembed.cli.data.lock import lock
from mmembed.cli.data.preview import preview
from mmembed.cli.data.show import show

__all__ = ["data"]

data = typer.Typer(
    no_args_is_help=True,
    help="Find, get, check and pin what models are trained on.\n\n\b\n"
    "First steps:\n"
    "  mmembed data list --modality video\n"
    "  mmembed data show llavahound-caption-to-video\n"
    "  mmembed data fetch llavahound-caption-to-video --root data --rows 100\n"
    "  mmembed data check rows.jsonl --html check.html\n"
    "  mmembed data lock my_mixture.yaml --out data.lock",
)

data.command("list")(list_datasets)
data.command()(show)
data.command()(fetch)
data.command()(check)
data.command()(preview)
data.command()(convert)
data.command()(lock)
