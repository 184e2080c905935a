"""`mmembed search`: the items nearest to a text or a picture."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from mmembed.cli.console import Device, Workers, load_embedder, printable, say
from mmembed.errors import ConfigError

__all__ = ["search"]


def search(
    index: Annotated[str, typer.Argument(help="The index: a folder or another address.")],
    text: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="A picture to look for, alone or with a text.")
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many results.")] = 10,
    mode: Annotated[
        str,
        typer.Option(help="vector: by meaning; text: by words; hybrid: both rankings joined."),
    ] = "vector",
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Only text, image, video or pdf; repeatable."),
    ] = None,
    suffix: Annotated[
        list[str] | None, typer.Option(help="Only files such as jpg; repeatable.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Only files in it or below it.")] = None,
    after: Annotated[
        str | None, typer.Option(help="Changed on this day or later, 2026-01-31.")
    ] = None,
    before: Annotated[str | None, typer.Option(help="Changed on this day or earlier.")] = None,
    page: Annotated[str | None, typer.Option(help="Only these pages: 3, 1-5, 4-.")] = None,
    min_duration: Annotated[
        float | None, typer.Option(min=0.0, help="Only videos of so many seconds or more.")
    ] = None,
    max_duration: Annotated[float | None, typer.Option(min=0.0, help="Or fewer.")] = None,
    reranker: Annotated[
        str | None, typer.Option(help="A reranker's folder or hub id; orders the best hits.")
    ] = None,
    rerank_depth: Annotated[int, typer.Option(min=1, help="How many of them.")] = 50,
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
      mmembed search papers.index "table of costs" --mode hybrid --folder papers/2026
    """
    from mmembed.search.filters import row_filter
    from mmembed.search.opening import open_index
    from mmembed.search.searcher import Searcher, check_mode

    check_mode(mode)
    if text is None and image is None:
        raise ConfigError("nothing to look for: give a text, --image, or both")
    where = row_filter(
        kinds=kind,
        suffixes=suffix,
        folder=None if folder is None else folder.resolve(),
        modified_after=_day("--after", after),
        modified_before=_day("--before", before),
        pages=_pages(page),
        duration=(min_duration, max_duration),
    )
    source = open_index(index)
    model = model or source.settings.get("model")
    if model is None:
        raise ConfigError(f"{index} does not say which model made it; give --model")
    judge = None
    if reranker is not None:
        from mmembed.encoder.reranker import Reranker

        judge = Reranker.from_pretrained(reranker, device=device, num_workers=num_workers)
    searcher = Searcher(load_embedder(model, device, num_workers), source, reranker=judge)
    hits = searcher.search(
        {"text": text, "image": image},
        k,
        where=where,
        instruction=instruction,
        mode=mode,
        rerank_depth=rerank_depth,
    )
    if as_json:
        typer.echo(json.dumps([asdict(hit) for hit in hits], indent=2))
        return
    for hit in hits:
        score = hit.score if hit.rerank_score is None else hit.rerank_score
        typer.echo(f"{score:7.4f}  {hit.kind:5}  {printable(hit.path)}  {hit.place}".rstrip())
        if hit.text:
            typer.echo(f"{'':16}{printable(' '.join(hit.text.split())[:80])}")
    if not hits:
        say("no results")


def _day(option: str, value: str | None) -> date | None:
    if value is None:
        return None
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ConfigError(f"{option} is {value!r}; give a day, e.g. 2026-01-31") from None


def _pages(value: str | None) -> tuple[int | None, int | None] | None:
    if value is None:
        return None
    first, dash, last = value.partition("-")
    try:
        low, high = int(first), int(last) if last else None
    except ValueError:
        raise ConfigError(f"--page is {value!r}; give a page or a range: 3, 1-5, 4-") from None
    return (low, high) if dash else (low, low)
