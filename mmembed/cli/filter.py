"""`mmembed filter`: keep the pairs that belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmembed.cli.console import Device, Workers, say
from mmembed.cli.data.options import Arguments, Format, Root, opened
from mmembed.cli.mine import Part, Store, Targets, Teacher, part_of, settings_of

__all__ = ["filter_pairs"]


def filter_pairs(
    targets: Targets,
    teacher: Teacher,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of kept and dropped rows.")],
    min_score: Annotated[
        float | None, typer.Option(help="A row stays when its best positive scores above.")
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="A row stays when a positive is among so many nearest documents."),
    ] = None,
    lowest: Annotated[
        float | None, typer.Option(help="Per cent of each data set that go, the lowest scores.")
    ] = None,
    min_positive: Annotated[
        float | None, typer.Option(help="Positives that score below go; the row may stay.")
    ] = None,
    duplicates: Annotated[
        bool | None, typer.Option("--duplicates", help="Drop rows that were there before.")
    ] = None,
    best_first: Annotated[
        bool | None, typer.Option("--best-first", help="The best-scoring positive comes first.")
    ] = None,
    pool: Annotated[
        Literal["own", "all"] | None,
        typer.Option(help="For --top-k: documents of the data set, or of all; default: own."),
    ] = None,
    query_instruction: Annotated[
        str | None, typer.Option(help="For queries that bring none; the teacher sees it only.")
    ] = None,
    document_instruction: Annotated[str | None, typer.Option(help="For documents.")] = None,
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="Settings in YAML; options win over them.")
    ] = None,
    part: Part = None,
    store: Store = None,
    root: Root = Path("data"),
    format: Format = None,
    arguments: Arguments = None,
    device: Device = None,
    num_workers: Workers = None,
) -> None:
    """Sort weak pairs by what a teacher says of them.

    OUT gets NAME.jsonl, the rows that stay, NAME.dropped.jsonl, all others with their reasons under
    `meta`, and filter.json. Nothing is lost. Stop it at any moment; the same command goes on.

    \b
    Examples:
      mmembed filter pairs.jsonl --teacher run/model --out kept --min-score 0.7
      mmembed filter pairs.jsonl --teacher run/model --out kept --top-k 20 --duplicates
      mmembed filter mixture.yaml --teacher run/model --out kept --lowest 5
      mmembed filter captions.jsonl -t open_clip:ViT-B-32:laion2b_s34b_b79k -o kept \\
        --min-score 0.28

    The options are the most used settings; --config filter.yaml takes all of them.
    """
    from mmembed.baselines.loading import load_model
    from mmembed.config.mining import FilterConfig
    from mmembed.mining.filter_job import describe_filter, filter_rows

    given = {
        "min_score": min_score,
        "top_k": top_k,
        "lowest": lowest,
        "min_positive": min_positive,
        "duplicates": duplicates,
        "best_first": best_first,
        "pool": pool,
        "query_instruction": query_instruction,
        "document_instruction": document_instruction,
    }
    settings = settings_of(FilterConfig, config, given)
    share = part_of(part)
    data = [
        each
        for target in targets
        for each in opened(target, root=root, format=format, arguments=arguments)
    ]
    model = load_model(teacher, device=device, num_workers=num_workers)
    try:
        report = filter_rows(data, model, settings, out, store=store, part=share)
    finally:
        model.close()
    if not report.is_complete:
        say(f"{out}: part {part} is done; the part that ends last writes the files")
        return
    for name, path in report.kept.items():
        typer.echo(str(path))
        for line in describe_filter(name, report.counts[name]):
            say(line)
