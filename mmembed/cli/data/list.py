"""`mmembed data list`: which data sets there are, and which of them are here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmembed.cli.console import say
from mmembed.cli.data.options import Root

if TYPE_CHECKING:
    from mmembed.datasets import DatasetCard

__all__ = ["list_datasets", "size_of"]

# Licences may be sentences; `show` and --json have all of it.
_LETTERS = 28
_COLUMNS = ("name", "task", "modality", "license", "revision", "rows", "size", "here")


def list_datasets(
    root: Root = Path("data"),
    task: Annotated[
        str | None, typer.Option("--task", help="Only this task: retrieval, qa, sts, ...")
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option("--modality", "-m", help="Only with this in query or document."),
    ] = None,
    license: Annotated[
        str | None, typer.Option("--license", help="Only with this in the licence: apache, cc-by.")
    ] = None,
    present: Annotated[
        bool, typer.Option("--present", help="Only those that are under --root, in part or whole.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON list with all fields of the cards.")
    ] = False,
) -> None:
    """The published data sets that can be trained on.

    `here` is present, partial (a file is missing) or absent, as seen under --root. A revision
    `floating` means that whatever the hub has on the day is downloaded; `data.lock` notes what.

    \b
    Examples:
      mmembed data list --modality video
      mmembed data list --license apache --present --root /data
      mmembed data list --json
    """
    import dataclasses
    import json
    from typing import get_args

    from mmembed.data.downloads import presence
    from mmembed.data.opening import list_cards
    from mmembed.errors import ConfigError
    from mmembed.types import Task

    if task is not None and task not in get_args(Task):
        raise ConfigError(f"--task {task}: tasks are {', '.join(get_args(Task))}")
    known = list_cards()
    cards = [
        card
        for card, _ in known.values()
        if (task is None or card.task == task)
        and (modality is None or modality in f"{card.query} {card.document}")
        and (license is None or license.lower() in card.license.lower())
    ]
    here = {card.name: presence(card, root, known[card.name][1].place(card.name)) for card in cards}
    if present:
        cards = [card for card in cards if here[card.name] != "absent"]
    if as_json:
        rows = [{**dataclasses.asdict(card), "here": here[card.name]} for card in cards]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = [_COLUMNS, *(_row(card, here[card.name]) for card in cards)]
    widths = [max(len(row[column]) for row in table) for column in range(len(_COLUMNS))]
    for row in table:
        typer.echo("  ".join(map(str.ljust, row, widths)).rstrip())
    there = sum(state == "present" for state in here.values())
    say(f"{len(cards)} data sets, {there} of them under {root}")


def _row(card: DatasetCard, here: str) -> tuple[str, ...]:
    from mmembed.data.downloads import is_pinned

    return (
        card.name,
        card.task,
        f"{card.query} -> {card.document}",
        card.license if len(card.license) <= _LETTERS else f"{card.license[:_LETTERS]}...",
        card.revision[:10] if is_pinned(card) else "floating",
        _count(card.num_rows),
        size_of(card),
        here,
    )


def size_of(card: Any) -> str:
    """Of the download, for people; `?` where nobody has said."""
    if card.num_bytes is None:
        return "?"
    size, unit = float(card.num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"


def _count(rows: int | None) -> str:
    return "?" if rows is None else f"{rows:,}"
