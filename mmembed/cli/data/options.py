"""Options that the commands over data share, and opening what they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.errors import ConfigError

if TYPE_CHECKING:
    from mmembed.data.opening import OpenedDataset

__all__ = ["Arguments", "Format", "Root", "Target", "check_output", "opened"]

Target = Annotated[
    str,
    typer.Argument(
        help="A file, a published data set (`mmembed data list`), `package.module:Name`, or a "
        "recipe or mixture in YAML."
    ),
]
Root = Annotated[
    Path, typer.Option("--root", "-r", help="Folder of downloads: ROOT/owner/name/...")
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", "-f", help="Of a file, a name of configs/datasets.yaml; default: found out."
    ),
]
Arguments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="An option of the data set or format; repeatable."
    ),
]


def opened(
    target: str,
    *,
    root: Path = Path("data"),
    format: str | None = None,
    arguments: Sequence[str] | None = None,
) -> list[OpenedDataset]:
    """See `mmembed.data.opening.open_datasets`."""
    from mmembed.data.opening import open_datasets

    return open_datasets(target, root=root, format=format, arguments=arguments or ())


def check_output(out: Path, option: str, *suffixes: str) -> None:
    """Before the work: that a page or report cannot take the place of data.

    Raises:
        ConfigError: its name does not end in one of `suffixes`, or it is a folder.
    """
    if out.suffix.lower() not in suffixes:
        raise ConfigError(f"{option} {out}: give a name that ends in {' or '.join(suffixes)}")
    if out.is_dir():
        raise ConfigError(f"{option} {out} is a folder; give the name of a file")
    out.parent.mkdir(parents=True, exist_ok=True)
