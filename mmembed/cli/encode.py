"""`mmembed encode`: items to vectors, in one file or as a job that can be stopped."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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

if TYPE_CHECKING:
    from mmembed.search.jobs import JobSettings
    from mmembed.search.jobs import Workers as JobWorkers

__all__ = ["encode"]


def _verify(folder: Path | None) -> None:
    if folder is None:
        return
    from mmembed.search.job_folder import verify_job

    summary, problems = verify_job(folder)
    typer.echo(summary)
    for problem in problems[:SHOWN_FAILURES]:
        say(f"  {printable(problem)}")
    if len(problems) > SHOWN_FAILURES:
        say(f"  and {len(problems) - SHOWN_FAILURES} more")
    raise typer.Exit(2 if problems else 0)


def encode(
    model: Model,
    out: Annotated[
        str,
        typer.Option("--out", "-o", help="A .npy, .safetensors or .parquet file, or a folder/."),
    ],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            help="JSON lines, one item a line, media beside the file. For a job also .parquet and "
            ".arrow tables, saved data sets, and folders of media and texts; several."
        ),
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
    precision: Annotated[
        Literal["float32", "int8", "uint8", "binary", "ubinary"],
        typer.Option(help="Of the vectors; all but float32 need --on-error raise or skip."),
    ] = "float32",
    on_error: Annotated[
        Literal["raise", "null", "skip"],
        typer.Option(help="Stop at a bad item, give it a NaN row, or leave it out."),
    ] = "raise",
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens in a batch.")] = None,
    num_workers: Workers = None,
    device: Device = None,
    shard_rows: Annotated[
        int,
        typer.Option(
            min=1,
            max=1_000_000,
            help="Job: most rows in one shard; fewer where tables hold the media themselves.",
        ),
    ] = 2048,
    file_format: Annotated[
        Literal["npy", "parquet"],
        typer.Option("--format", help="Job: of the shards; parquet has columns id and vector."),
    ] = "npy",
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Job: worker processes; default: one, or one for each GPU."),
    ] = None,
    runner: Annotated[
        Literal["local", "ray"], typer.Option(help="Job: this machine, or a Ray cluster.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(help="Job: of a running cluster, or auto; default: start one here."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Job: say what it would take; write nothing.")
    ] = False,
    verify: Annotated[
        Path | None,
        typer.Option(
            is_eager=True, callback=_verify, help="Check every byte of a finished job, and end."
        ),
    ] = None,
) -> None:
    """Turn items into vectors.

    To a file: the vectors, and beside them OUT.ids.jsonl (the id of each row) and
    OUT.errors.jsonl (the items that failed, and why).

    To a folder, OUT/: a job for any number of rows. OUT/shards holds the vectors in shards,
    OUT/errors.jsonl what failed. Stop it at any moment; the same command goes on from there.

    \b
    Examples:
      mmembed encode items.jsonl --model run/model --out vectors.npy --on-error null
      mmembed encode --text "a dog" --image dog.jpg --model run/model --out two.safetensors
      mmembed encode big.jsonl --model run/model --out vectors/ --on-error null
      mmembed encode data/*.parquet --model run/model --out vectors/ --processes 4
      mmembed encode ~/Pictures --model run/model --out vectors/ --dry-run
      mmembed encode --verify vectors/
    """
    from mmembed.search.jobs import JobSettings
    from mmembed.search.jobs import Workers as JobWorkers
    from mmembed.search.vector_files import VECTOR_SUFFIXES

    settings = JobSettings(
        role=role,
        instruction=instruction,
        truncate_dim=truncate_dim,
        precision=precision,
        on_error=on_error,
        shard_rows=shard_rows,
        format=file_format,
    )
    workers = JobWorkers(
        runner=runner,
        processes=processes,
        ray_address=ray_address,
        device=device,
        num_workers=num_workers,
        batch_tokens=batch_tokens,
    )
    named = [
        (kind, value)
        for kind, values in (("text", text), ("image", image), ("video", video), ("pdf", pdf))
        for value in values or []
    ]
    target = Path(out)
    names_folder = not target.suffix or target.is_dir()
    is_job = names_folder and target.suffix not in VECTOR_SUFFIXES
    if not (is_job or out.endswith("/") or dry_run):
        _encode_to_file(sources or [], named, model, target, settings, workers)
    elif named:
        raise ConfigError(
            "--text, --image, --video and --pdf go with --out FILE.npy; a folder of shards takes "
            "its items from files or folders"
        )
    elif not sources:
        raise ConfigError("nothing to encode: name a file of items or a folder")
    else:
        _encode_to_folder(sources, model, target, settings, workers, dry_run=dry_run)


def _encode_to_file(
    sources: list[Path],
    named: list[tuple[str, str | Path]],
    model: str,
    out: Path,
    settings: JobSettings,
    workers: JobWorkers,
) -> None:
    from mmembed.inputs.item_files import FileItem, read_items
    from mmembed.search.vector_files import check_vector_file, encode_items, write_vectors
    from mmembed.types import MultimodalInput

    check_vector_file(out)
    if len(sources) > 1 or any(source.is_dir() for source in sources):
        raise ConfigError(f"{out} takes one file of items; give a folder for more: --out vectors/")
    if workers.runner != "local" or workers.processes not in (None, 1) or workers.ray_address:
        raise ConfigError(f"{out} is written by one process; give a folder: --out vectors/")
    if settings.format != "npy":
        raise ConfigError("--format is that of a job's shards; a file has the format of its suffix")
    if sources and sources[0].suffix in (".parquet", ".arrow"):
        raise ConfigError(f"{sources[0]} is a table, which goes into a folder: --out vectors/")
    entries = read_items(sources[0]) if sources else []
    for kind, value in named:
        entries.append(FileItem(str(value), MultimodalInput.of({kind: value})))
    if not entries:
        raise ConfigError("nothing to encode: give a JSON-lines file, --text, --image, ...")
    embedder = load_embedder(model, workers.device, workers.num_workers)
    encoded = encode_items(
        embedder,
        entries,
        role=settings.role,
        instruction=settings.instruction,
        truncate_dim=settings.truncate_dim,
        precision=settings.precision,
        on_error=settings.on_error,
        batch_tokens=workers.batch_tokens,
    )
    write_vectors(out, encoded, fingerprint=embedder.fingerprint)
    errors = sorted(encoded.errors.items())
    done = len(entries) - len(errors)
    typer.echo(f"{out}: {done} of {len(entries)} items, {encoded.vectors.shape[1]} dimensions")
    say_failures([(entries[n].id, error) for n, error in errors])


def _encode_to_folder(
    sources: list[Path],
    model: str,
    out: Path,
    settings: JobSettings,
    workers: JobWorkers,
    *,
    dry_run: bool,
) -> None:
    from mmembed.search.jobs import encode_dataset, forecast

    if dry_run:
        typer.echo(forecast(sources, model, settings=settings, workers=workers))
        return
    # standard output is for results; Ray says there which of its workers died
    with redirect_stdout(sys.stderr):
        summary = encode_dataset(sources, model, out, settings=settings, workers=workers)
    typer.echo(f"{out}: {summary}")
    if summary.ignored:
        say(f"columns that were not read: {printable(', '.join(summary.ignored))}")
    if summary.failed:
        say(f"what failed is listed in {out / 'errors.jsonl'}")
    for shard, reason in summary.given_up[:SHOWN_FAILURES]:
        last = shard.first + shard.rows
        say(f"shard {shard.index} (rows {shard.first + 1:,} to {last:,}): {printable(reason)}")
    if summary.given_up:
        say(f"{len(summary.given_up)} shards were given up; run the same command to try again")
    if summary.failed or summary.given_up:
        raise typer.Exit(2)
