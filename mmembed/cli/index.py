"""`mmembed index`: a folder made searchable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmembed.cli.console import (
    SHOWN_FAILURES,
    Device,
    Model,
    TruncateDim,
    Workers,
    load_embedder,
    printable,
    say,
    say_failures,
)
from mmembed.errors import ConfigError

__all__ = ["index"]


def index(
    folder: Annotated[Path, typer.Argument(help="Images, videos, PDFs, .txt and .md files.")],
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="The index folder; made or updated.")],
    instruction: Annotated[str | None, typer.Option(help="Given with every item.")] = None,
    passage_chars: Annotated[int, typer.Option(min=1, help="Longest passage of a text.")] = 1000,
    window_seconds: Annotated[
        float, typer.Option(min=0.1, help="Length of the clips of a long video.")
    ] = 30.0,
    max_clip_seconds: Annotated[
        float, typer.Option(min=0.0, help="Videos up to this length stay whole.")
    ] = 60.0,
    truncate_dim: TruncateDim = None,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Also enter linked folders.")
    ] = False,
    check_content: Annotated[
        bool,
        typer.Option("--check-content", help="Hash also files whose size and date are unchanged."),
    ] = False,
    num_workers: Workers = None,
    device: Device = None,
) -> None:
    """Make a folder searchable, or bring its index up to date.

    Only new content is encoded. Files that cannot be used are listed, also in OUT/errors.jsonl,
    and tried again the next time; the exit code is then 2.

    \b
    Example:
      mmembed index ~/Pictures --model run/model --out pictures.index
    """
    from mmembed.search.corpus import index_folder
    from mmembed.search.exact_index import ExactIndex
    from mmembed.search.segments import Segmentation

    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder")
    embedder = load_embedder(model, device, num_workers)
    dimension = truncate_dim or embedder.embedding_dimension
    if dimension > embedder.embedding_dimension:
        raise ConfigError(f"--truncate-dim: the model has {embedder.embedding_dimension}")
    target = ExactIndex(out, fingerprint=embedder.fingerprint, dimension=dimension)
    summary = index_folder(
        folder,
        embedder=embedder,
        index=target,
        segmentation=Segmentation(
            passage_chars=passage_chars,
            window_seconds=window_seconds,
            max_clip_seconds=max_clip_seconds,
            instruction=instruction,
        ),
        decoder=embedder.processor.decoder,
        follow_links=follow_links,
        check_content=check_content,
        model=str(Path(model).resolve()) if Path(model).exists() else model,
        show_progress_bar=True,
    )
    typer.echo(summary)
    if summary.ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in summary.ignored.most_common(5))
        say(f"not indexed: {kinds}")
    for warning in summary.warnings[:SHOWN_FAILURES]:
        say(f"warning: {printable(warning)}")
    say_failures([(failure.id, failure) for failure in summary.failures])
