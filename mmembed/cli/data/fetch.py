"""`mmembed data fetch`: download published data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmembed.cli.console import say
from mmembed.cli.data.options import Root

if TYPE_CHECKING:
    from mmembed.data.fetch import Download, FetchResult

__all__ = ["fetch"]


def fetch(
    names: Annotated[list[str], typer.Argument(help="Data sets of `mmembed data list`.")],
    root: Root = Path("data"),
    rows: Annotated[
        int | None,
        typer.Option(
            "--rows",
            "-n",
            min=1,
            help="Only the first rows of each table, in the layout of the whole, to try it. "
            "Archives of pictures and clips are left out.",
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option("--revision", help="Commit, tag or branch; default: the card's."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--source", help="Copy from a folder with repositories in owner/name."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be downloaded.")
    ] = False,
) -> None:
    """Download data sets to ROOT/owner/name, at the revision of their card.

    The licence is printed first. A download that was cut goes on when the command is given again.
    Commit, sizes and sha256 are noted in ROOT/data.lock; `mmembed data lock --check` reads it.
    HF_ENDPOINT and HF_TOKEN work as they do for the hub's own tools.

    \b
    Examples:
      mmembed data fetch colpali-train --root data --dry-run
      mmembed data fetch colpali-train --root data --rows 100
      mmembed data fetch colpali-train --root data --source /mnt/hub_copy
    """
    from mmembed.data.fetch import fetch as download
    from mmembed.data.fetch import plan_fetch
    from mmembed.data.hub import Hub, Mirror
    from mmembed.data.opening import list_cards
    from mmembed.errors import ConfigError

    cards = list_cards()
    unknown = [name for name in names if name not in cards]
    if unknown:
        from mmembed.config.validation import did_you_mean

        raise ConfigError(
            f"no data set {unknown[0]!r}{did_you_mean(unknown[0], cards)}; `mmembed data list` "
            f"shows all {len(cards)}"
        )
    plan = plan_fetch([cards[name][0] for name in names], revision=revision, rows=rows)
    for one in plan:
        (typer.echo if dry_run else say)(_described(one, root))
    if not dry_run:
        origin = Mirror(source) if source is not None else Hub()
        download(plan, root, origin, on_done=_say_done)


def _described(one: Download, root: Path) -> str:
    from mmembed.cli.data.list import size_of

    card = one.card
    what = f"the first {one.rows} rows of each table" if one.rows else size_of(card)
    files = ", ".join(card.files) or "all files"
    return (
        f"{card.name}: {card.repo}@{one.revision} -> {one.target(root)}\n"
        f"  license {card.license}; {what}; {files}"
    )


def _say_done(result: FetchResult) -> None:
    typer.echo(str(result.folder))
    say(
        f"{result.name}: {result.num_files} files, {result.num_bytes:,} bytes, "
        f"commit {result.commit or 'not known'}"
    )
    if result.left_out:
        shown = ", ".join(result.left_out[:3])
        say(f"  left out of the sample: {len(result.left_out)} files such as {shown}")
