"""`mmembed encode`: items to vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmembed.cli.console import Device, Model, TruncateDim, Workers, load_embedder, say_failures
from mmembed.errors import ConfigError, InputError

__all__ = ["encode"]


def encode(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .npy or .safetensors file.")],
    items: Annotated[
        Path | None, typer.Argument(help="JSON lines: one item a line, media beside the file.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text; repeatable.")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="An image; repeatable.")] = None,
    video: Annotated[list[Path] | None, typer.Option(help="A video; repeatable.")] = None,
    pdf: Annotated[list[Path] | None, typer.Option(help="A PDF, all pages; repeatable.")] = None,
    role: Annotated[Literal["query", "document"], typer.Option(help="What they are.")] = "document",
    instruction: Annotated[
        str | None, typer.Option(help="For items that bring no instruction of their own.")
    ] = None,
    truncate_dim: TruncateDim = None,
    on_error: Annotated[
        Literal["raise", "null", "skip"],
        typer.Option(help="Stop at a bad item, give it a NaN row, or leave it out."),
    ] = "raise",
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens in a batch.")] = None,
    num_workers: Workers = None,
    device: Device = None,
) -> None:
    """Turn items into vectors.

    Writes the vectors, and beside them OUT.ids.jsonl (the id of each row) and OUT.errors.jsonl
    (the items that failed, and why).

    \b
    Examples:
      mmembed encode items.jsonl --model run/model --out vectors.npy --on-error null
      mmembed encode --text "a dog" --image dog.jpg --model run/model --out two.safetensors
    """
    import numpy as np

    from mmembed.inputs.item_files import FileItem, read_items
    from mmembed.search.vector_files import check_vector_file, write_vectors
    from mmembed.types import MultimodalInput

    check_vector_file(out)
    entries = read_items(items) if items is not None else []
    for kind, values in (("text", text), ("image", image), ("video", video), ("pdf", pdf)):
        for value in values or []:
            entries.append(FileItem(str(value), MultimodalInput.of({kind: value})))
    if not entries:
        raise ConfigError("nothing to encode: give a JSON-lines file, --text, --image, ...")
    errors = {n: each.item for n, each in enumerate(entries) if isinstance(each.item, InputError)}
    if errors and on_error == "raise":
        first = min(errors)
        raise errors[first].at(first)
    good = [number for number in range(len(entries)) if number not in errors]
    embedder = load_embedder(model, device, num_workers)
    vectors, report = embedder.encode(
        [entries[number].item for number in good],
        role=role,
        instruction=instruction,
        truncate_dim=truncate_dim,
        on_error="raise" if on_error == "raise" else "null",
        batch_tokens=batch_tokens,
        return_report=True,
    )
    for error in report.errors:
        place = error.index[0] if isinstance(error.index, tuple) else error.index
        errors[good[place]] = error
    rows = np.full((len(entries), vectors.shape[1]), np.nan, dtype=np.float32)
    rows[good] = vectors
    write_vectors(
        out,
        [entry.id for entry in entries],
        rows,
        errors,
        fingerprint=embedder.fingerprint,
        keep_failed=on_error != "skip",
    )
    typer.echo(f"{out}: {len(rows) - len(errors)} of {len(rows)} items, {rows.shape[1]} dimensions")
    say_failures([(entries[n].id, error) for n, error in sorted(errors.items())])
