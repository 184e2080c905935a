"""`mmembed data lock`: write down what data are, and say later whether they still are that."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmembed.cli.console import say
from mmembed.cli.data.options import Arguments, Format, Root, opened

__all__ = ["lock"]


def lock(
    target: Annotated[
        str | None, typer.Argument(help="As of the other commands; not needed with --check.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The lock to write.")] = Path(
        "data.lock"
    ),
    check: Annotated[
        Path | None,
        typer.Option("--check", help="Compare with this lock; exit code 2 if anything differs."),
    ] = None,
    root: Root = Path("data"),
    format: Format = None,
    arguments: Arguments = None,
) -> None:
    """Write revision, licence, number and digest of rows, and sha256 of files to a lock.

    Keep the lock with the recipe: `--check`, and `mmembed train --data-lock`, say what is no longer
    the same, file by file. Pictures and clips count by their names; their content is not read.

    \b
    Examples:
      mmembed data lock my_recipe.yaml --out data.lock
      mmembed data lock --check data.lock
      mmembed data lock my_recipe.yaml --check data.lock
    """
    from mmembed.data.fetch import noted_commits
    from mmembed.data.lock import check_lock, lock_datasets, read_lock, write_lock
    from mmembed.errors import ConfigError
    from mmembed.progress import shown_progress

    if target is None and check is None:
        raise ConfigError("give what to lock, or --check data.lock")
    found = (
        None if target is None else opened(target, root=root, format=format, arguments=arguments)
    )
    if check is not None:
        known = read_lock(check).datasets
        total = sum(entry.rows or 0 for entry in known)
        with shown_progress(None, "comparing", total, "rows") as advance:
            changes = check_lock(check, found, on_progress=advance)
        for line in changes:
            typer.echo(line)
        if changes:
            raise typer.Exit(2)
        say(f"{_data_sets(len(known))} as in {check}")
        return
    assert found is not None
    if out.exists():
        _refuse_other(out)
    total = sum(len(one.adapter) for one in found)
    with shown_progress(None, "reading", total, "rows") as advance:
        locked = lock_datasets(found, commits=noted_commits(root), on_progress=advance)
    write_lock(out, locked)
    typer.echo(str(out))
    say(f"{_data_sets(len(locked.datasets))}, {total:,} rows")


def _data_sets(count: int) -> str:
    return "1 data set" if count == 1 else f"{count} data sets"


def _refuse_other(out: Path) -> None:
    """A lock may be replaced, nothing else."""
    from mmembed.data.lock import read_lock
    from mmembed.errors import ConfigError

    try:
        read_lock(out)
    except ValueError:
        raise ConfigError(f"{out} exists and is no lock of data; give another --out") from None
