"""`mmembed rank`: documents in the order in which they answer a query."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mmembed.cli.console import Device, Workers, printable, say_failures
from mmembed.errors import ConfigError, InputError

__all__ = ["rank"]


def rank(
    documents: Annotated[Path, typer.Argument(help="JSON lines: one document a line.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A reranker's folder or hub id.")],
    text: Annotated[str | None, typer.Argument(help="The query.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture as query, or part of it.")] = None,
    k: Annotated[int | None, typer.Option("--k", "-k", min=1, help="Default: all.")] = None,
    instruction: Annotated[str | None, typer.Option(help="What kind of match is meant.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Prompt template, for a folder that names none.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    num_workers: Workers = None,
    device: Device = None,
) -> None:
    """Order documents by how well they answer a query.

    \b
    Example:
      mmembed rank candidates.jsonl "a dog in the snow" --model run/reranker --k 5
    """
    from mmembed.encoder.report import error_position
    from mmembed.encoder.reranker import Reranker
    from mmembed.inputs.item_files import read_items

    query: dict[str, Any] = {"text": text, "image": image}
    if text is None and image is None:
        raise ConfigError("no query: give a text, --image, or both")
    entries = read_items(documents)
    failures = [(entry.id, entry.item) for entry in entries if isinstance(entry.item, InputError)]
    good = [entry for entry in entries if not isinstance(entry.item, InputError)]
    with Reranker.from_pretrained(
        model, prompt=prompt, device=device, num_workers=num_workers
    ) as reranker:
        scores, report = reranker.score(
            query,
            [entry.item for entry in good],
            instruction=instruction,
            on_error="null",
            return_report=True,
        )
    failures += [(good[error_position(error)].id, error) for error in report.errors]
    for place in sorted(report.kept, key=lambda place: -scores[place])[:k]:
        name, score = good[place].id, float(scores[place])
        line = json.dumps({"id": name, "score": score}) if as_json else f"{score:7.4f}  {name}"
        typer.echo(printable(line))
    say_failures(failures)
