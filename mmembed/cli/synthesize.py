"""`mmembed synthesize`: training rows written by a language model behind an HTTP interface."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmembed.cli.console import printable, say
from mmembed.errors import ConfigError

__all__ = ["synthesize"]


def synthesize(
    pipeline: Annotated[
        str | None, typer.Argument(help="A name that --list shows, or a YAML file.")
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(
            "--input", "-i", help="A data set as `mmembed data` takes it, or a .jsonl of documents."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder to write.")] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="OpenAI-compatible, such as http://localhost:8000/v1.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Its name there.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="NAME of the environment variable that holds the key.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say what it would cost and ask nothing.")
    ] = False,
    max_cost: Annotated[
        float | None,
        typer.Option(
            help="Stop before this is exceeded; needs "
            '--set "limits.price_per_million={input: 1, output: 2}".'
        ),
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(help="Of HTTP, such as http://proxy:3128; the environment is not asked."),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 8,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="dotted.key=value of the pipeline, such as near_duplicates=0.8 or "
            "max_tokens_field=max_completion_tokens; repeat for several.",
        ),
    ] = None,
    filter_teacher: Annotated[
        str | None,
        typer.Option(help="A model; at the end OUT/filtered gets the rows that it confirms."),
    ] = None,
    filter_min_score: Annotated[
        float, typer.Option(help="Cosine of query and positive that it must see.")
    ] = 0.7,
    format: Annotated[
        str | None, typer.Option("--format", "-f", help="Of the input; default: found out.")
    ] = None,
    root: Annotated[Path, typer.Option(help="Where downloaded data sets lie.")] = Path("data"),
    list_: Annotated[
        bool, typer.Option("--list", help="Show the pipelines that there are.")
    ] = False,
) -> None:
    """Write training rows with a language model, each input row exactly once.

    OUT gets rows.jsonl, rejected.jsonl with the reasons, and journal.jsonl with every answer. After
    Ctrl-C or a crash the same command goes on: no answer in the journal is paid for again; only
    requests that were in flight may be repeated (with the same Idempotency-Key).

    \b
    Examples:
      mmembed synthesize --list
      mmembed synthesize qwen3_retrieval --input passages.jsonl --out synthetic --estimate
      mmembed synthesize qwen3_retrieval --input passages.jsonl --out synthetic \\
        --endpoint http://localhost:8000/v1 --model my-model --limit 100
    """
    from mmembed.synthesis.pipeline import list_pipelines, load_pipeline

    if list_:
        for name, summary in list_pipelines().items():
            typer.echo(printable(f"{name:28} {summary}"))
        return
    if pipeline is None or input is None:
        raise ConfigError(
            "give a PIPELINE and --input; `mmembed synthesize --list` shows the pipelines"
        )
    from mmembed.synthesis.estimate import check_limits
    from mmembed.synthesis.estimate import estimate as estimate_run
    from mmembed.synthesis.rows import open_rows
    from mmembed.synthesis.runner import num_done
    from mmembed.synthesis.runner import synthesize as run

    overrides = list(set_ or ())
    if max_cost is not None:
        overrides.append(f"limits.max_cost={max_cost}")
    settings = load_pipeline(pipeline, overrides=overrides)
    rows = open_rows(input, root=root, format=format)
    found = estimate_run(settings, rows, limit=limit)
    if estimate:
        typer.echo(found)
        return
    if endpoint is None or model is None or out is None:
        raise ConfigError("give --endpoint, --model and --out, or --estimate")
    check_limits(settings, found, num_done(out))
    say(f"expected: {found}")
    from mmembed.endpoints.client import EndpointClient

    limits = settings.limits
    with EndpointClient(
        endpoint,
        model=model,
        api_key_env=api_key_env,
        timeout_seconds=limits.timeout_seconds,
        read_seconds=limits.timeout_seconds,
        max_retries=limits.max_retries,
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        concurrency=concurrency,
        proxy=proxy,
        seed=settings.seed,
    ) as client:
        report = run(settings, rows, client, out, limit=limit)
    typer.echo(report)
    for failure in report.failures:
        say(f"failed: {printable(failure)}")
    if report.stopped is not None:
        say(f"stopped: {report.stopped}")
    if report.num_open:
        say("run the same command again for the rows that are open")
        raise typer.Exit(2)
    if filter_teacher is not None and report.num_rows:
        _filter(out, filter_teacher, filter_min_score)


def _filter(out: Path, teacher: str, min_score: float) -> None:
    """Sort the written rows by what a teacher says of them; see `mmembed filter` for more."""
    from mmembed.baselines.loading import load_model
    from mmembed.config.mining import FilterConfig
    from mmembed.data.opening import open_datasets
    from mmembed.mining.filter_job import describe_filter, filter_rows

    encoder = load_model(teacher)
    try:
        written = open_datasets(out / "rows.jsonl", format="jsonl")
        found = filter_rows(written, encoder, FilterConfig(min_score=min_score), out / "filtered")
    finally:
        encoder.close()
    for name, counts in found.counts.items():
        for line in describe_filter(name, counts):
            typer.echo(line)
