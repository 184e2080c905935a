"""`mmembed search`: the items nearest to a text or a picture."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mmembed.cli.console import Device, Workers, load_embedder, printable, say
from mmembed.errors import ConfigError

__all__ = ["search"]


def search(
    index: Annotated[Path, typer.Argument(help="A folder made by `mmembed index`.")],
    text: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="A picture to look for, alone or with a text.")
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many results.")] = 10,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Only text, image, video or pdf; repeatable."),
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="What kind of match is meant.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Default: the model the index was made with."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    num_workers: Workers = None,
    device: Device = None,
) -> None:
    """Find the items nearest to a text or a picture.

    \b
    Examples:
      mmembed search pictures.index "a dog in the snow" --k 5
      mmembed search pictures.index --image dog.jpg --kind video --json
    """
    from mmembed.search.exact_index import ExactIndex
    from mmembed.search.searcher import Searcher

    query: dict[str, Any] = {"text": text, "image": image}
    if text is None and image is None:
        raise ConfigError("nothing to look for: give a text, --image, or both")
    source = ExactIndex(index)
    model = model or source.settings.get("model")
    if model is None:
        raise ConfigError(f"{index} does not say which model made it; give --model")
    searcher = Searcher(load_embedder(model, device, num_workers), source)
    hits = searcher.search(query, k, kinds=kind, instruction=instruction)
    if as_json:
        typer.echo(json.dumps([asdict(hit) for hit in hits], indent=2))
        return
    for hit in hits:
        typer.echo(f"{hit.score:7.4f}  {hit.kind:5}  {printable(hit.path)}  {hit.place}".rstrip())
        if hit.text:
            typer.echo(f"{'':16}{printable(' '.join(hit.text.split())[:80])}")
    if not hits:
        say("no results")
