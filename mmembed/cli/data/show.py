"""`mmembed data show`: everything about one data set, and the lines to paste in a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmembed.cli.console import printable
from mmembed.cli.data.list import size_of
from mmembed.cli.data.options import Root

if TYPE_CHECKING:
    from mmembed.datasets import DatasetCard, DatasetCatalog
    from mmembed.types import MultimodalInput

__all__ = ["show"]

_LETTERS = 160


def show(
    name: Annotated[str, typer.Argument(help="Of `mmembed data list`.")],
    root: Root = Path("data"),
    rows: Annotated[int, typer.Option("--rows", "-n", min=0, help="Rows to show.")] = 2,
) -> None:
    """A data set: its terms and source, how to get it, its options, a recipe's lines, first rows.

    \b
    Examples:
      mmembed data show colpali-train
      mmembed data show llavahound-caption-to-video --root /data --rows 5
    """
    from mmembed.data.downloads import download_folder, presence
    from mmembed.data.opening import list_cards
    from mmembed.errors import ConfigError

    cards = list_cards()
    if name not in cards:
        from mmembed.config.validation import did_you_mean

        raise ConfigError(
            f"no data set {name!r}{did_you_mean(name, cards)}; `mmembed data list` shows all "
            f"{len(cards)}"
        )
    card, catalog = cards[name]
    place = catalog.place(name)
    here = presence(card, root, place)
    for key, value in _facts(card).items():
        if value:
            typer.echo(f"{key:13} {value}")
    typer.echo(f"{'here':13} {here}: {download_folder(root, place) or root / place}")
    _echo_list("query instructions", card.query_instructions)
    _echo_list("document instructions", card.document_instructions)
    typer.echo("\nget it:\n" + _how_to_get(card, root, place))
    _echo_options(catalog.options(name))
    typer.echo("\nin a recipe or mixture, under `data`:\n" + _recipe_lines(card, catalog, root))
    if here != "absent" and rows:
        _echo_rows(catalog, name, root, rows)


def _facts(card: DatasetCard) -> dict[str, Any]:
    from mmembed.data.downloads import is_pinned

    revision = card.revision if is_pinned(card) else f"{card.revision} (floating)"
    return {
        "name": card.name,
        "task": card.task,
        "modality": f"{card.query} -> {card.document}",
        "license": card.license,
        "citation": card.citation,
        "repository": card.repo,
        "page": card.url,
        "config": card.config,
        "split": card.split,
        "revision": revision,
        "rows": f"{card.num_rows:,}" if card.num_rows is not None else "not counted",
        "size": size_of(card),
        "languages": ", ".join(card.languages),
        "files": ", ".join(card.files),
        "media": card.media,
        "group": card.group,
        "note": card.note,
    }


def _how_to_get(card: DatasetCard, root: Path, place: str) -> str:
    if not card.repo:
        return f"  see {card.url}; put it in {root / place}" + (
            f"\n  {card.media}" if card.media else ""
        )
    lines = [
        f"  mmembed data fetch {card.name} --root {root}",
        f"  mmembed data fetch {card.name} --root {root} --rows 100   # to try it",
    ]
    return "\n".join([*lines, *([f"  then: {card.media}"] if card.media else [])])


def _echo_options(options: Any) -> None:
    import inspect

    typer.echo("\noptions:" + ("" if options else " none"))
    for key, value in options.items():
        typer.echo(f"  {key}: {'required' if value is inspect.Parameter.empty else repr(value)}")


def _recipe_lines(card: DatasetCard, catalog: DatasetCatalog, root: Path) -> str:
    import json

    lines = [
        f"  - adapter: {catalog.adapter}",
        f"    arguments: {{name: {card.name}, root: {json.dumps(str(root))}}}",
        *([f"    group: {card.group}"] if card.group else []),
    ]
    for role in ("query", "document"):
        phrasings = getattr(card, f"{role}_instructions")
        if phrasings:
            chosen = phrasings[0] if len(phrasings) == 1 else phrasings
            text = json.dumps(chosen, ensure_ascii=False)
            lines.append(f"    {role}_instruction: {text}")
    return "\n".join(lines)


def _echo_list(title: str, texts: tuple[str, ...]) -> None:
    if texts:
        typer.echo(f"{title}:")
        for text in texts:
            typer.echo(f"  {text!r}")


def _echo_rows(catalog: DatasetCatalog, name: str, root: Path, rows: int) -> None:
    from mmembed.errors import DataError, InputError

    try:
        opened = catalog.open(name, root)
    except DataError as error:
        typer.echo(f"\nrows: cannot be read: {error}")
        return
    typer.echo(f"\nfirst of {len(opened):,} rows:")
    for index in range(min(rows, len(opened))):
        typer.echo(f"  {opened.where(index)}")
        try:
            example = opened[index]
        except InputError as error:
            typer.echo(f"    cannot be used: {error}")
            continue
        typer.echo(f"    query     {_shown(example.query)}")
        for item in example.positives[:2]:
            typer.echo(f"    positive  {_shown(item)}")
        for item in example.hard_negatives[:2]:
            typer.echo(f"    negative  {_shown(item)}")
        if example.label is not None:
            typer.echo(f"    label     {printable(example.label)}")


def _shown(item: MultimodalInput) -> str:
    from mmembed.types import Text

    pieces = []
    for part in item.parts:
        if isinstance(part, Text):
            pieces.append(printable(part.text.replace("\n", " ")))
            continue
        source: Any = part.source
        if isinstance(source, tuple):
            what = f"{len(source)} frames"
        elif isinstance(source, bytes):
            what = f"{len(source)} bytes"
        else:
            what = str(getattr(source, "name", None) or getattr(source, "url", source))
        pieces.append(f"<{type(part).__name__.lower()} {printable(what)}>")
    text = " ".join(pieces)
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}..."
