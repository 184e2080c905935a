"""`mmembed data convert`: rows into our format, or into that of another trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmembed.cli.console import SHOWN_FAILURES, printable, say
from mmembed.cli.data.options import Arguments, Format, Root, Target, opened
from mmembed.errors import ConfigError

__all__ = ["convert"]


def convert(
    target: Target,
    to: Annotated[
        Literal["jsonl", "parquet", "sentence-transformers", "flagembedding", "tevatron"],
        typer.Option("--to", "-t", help="The format to write; jsonl and parquet are ours."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    root: Root = Path("data"),
    format: Format = None,
    arguments: Arguments = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Write the other rows; the exit code is 2 still.")
    ] = False,
    media: Annotated[
        Literal["reference", "copy"],
        typer.Option(help="Name media files where they are, or copy them to OUT's media/."),
    ] = "reference",
    negatives: Annotated[
        int | None,
        typer.Option(
            min=0, help="sentence-transformers: the first N of each row; default: as the first row."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.")] = False,
) -> None:
    """Write the rows of TARGET in another format. OUT appears when all of it is written.

    A row that cannot be read, or that the format cannot hold (a picture in one of texts), is named
    with its file and line; then nothing is written, unless --skip-bad. What is only said about a
    row, such as ids, and has no place is left out and counted.

    \b
    Examples:
      mmembed data convert train.csv --to jsonl --out rows.jsonl
      mmembed data convert swift.jsonl --to parquet --out rows.parquet --media copy
      mmembed data convert rows.jsonl --to flagembedding --out bge.jsonl --skip-bad
      mmembed data convert talks.jsonl --to jsonl --out rows.jsonl --format chat --set turn=0
    """
    from mmembed.data import conversion
    from mmembed.progress import shown_progress

    if out.exists() and not force:
        raise ConfigError(f"{out} exists; give another --out, or --force to replace it")
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; give the name of a file")
    datasets = opened(target, root=root, format=format, arguments=arguments)
    if len(datasets) > 1:
        names = ", ".join(dataset.name for dataset in datasets)
        raise ConfigError(f"{target} has {len(datasets)} data sets ({names}); convert them singly")
    adapter = datasets[0].adapter
    with shown_progress(None, "convert", len(adapter), "rows") as advance:
        report = conversion.convert(
            adapter,
            out,
            to=to,
            skip_bad=skip_bad,
            media=media,
            negatives=negatives,
            advance=advance,
        )
    for name, count in report.left.items():
        say(f"{to} has no place for {name}: left out of {count:,} rows")
    if report.num_bad:
        say(f"{report.num_bad:,} of {report.num_rows:,} rows cannot be converted:")
        for bad in report.bad[:SHOWN_FAILURES]:
            say(f"  {printable(str(bad))}")
        if report.num_bad > SHOWN_FAILURES:
            say(f"  and {report.num_bad - SHOWN_FAILURES:,} more")
    if report.written:
        typer.echo(f"{report.num_rows:,} rows read, {report.num_written:,} written to {out}")
    else:
        say("nothing was written; --skip-bad writes the other rows")
    if report.num_bad:
        raise typer.Exit(2)
