"""`mmembed eval run`: one model on one suite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmembed.cli.console import Device, Workers, printable, say
from mmembed.cli.evaluation.options import (
    AllowMissing,
    DataRoot,
    Groups,
    Modalities,
    Only,
    ProfileName,
    SuiteName,
    selection,
)
from mmembed.errors import ConfigError

__all__ = ["run"]


def run(
    suite: SuiteName,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="A model folder or hub id, open_clip:ARCHITECTURE[:WEIGHTS], or "
            "sentence-transformers:FOLDER.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results.")],
    data_root: DataRoot = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Keep vectors here, for all suites and models; default: OUT/vectors."),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="Folder of `mmembed eval prepare`; other data are then refused."),
    ] = None,
    profile: ProfileName = None,
    only: Only = None,
    modality: Modalities = None,
    group: Groups = None,
    allow_missing: AllowMissing = False,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that encode; default: one for each GPU, or one."),
    ] = None,
    device: Device = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, float16; default: that of the device.")
    ] = None,
    num_threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of each process on a CPU; default: the cores, at most 4. Moves vectors within "
            "rounding; the number of processes does not.",
        ),
    ] = None,
    num_workers: Workers = None,
    again: Annotated[
        bool, typer.Option("--again", help="Score tasks that have scores, too.")
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Encode part I of N (0/8, ..., 7/8) into a shared --store and score nothing: for "
            "machines of a cluster. Then run once without it.",
        ),
    ] = None,
    loader: Annotated[
        str | None,
        typer.Option(
            help="package.module:function, or file.py:function, that makes the encoder of another "
            "library's model."
        ),
    ] = None,
) -> None:
    """Judge a model on a suite: encode what has no vector yet, score, write OUT.

    Stop it at any moment and run the same command again: it goes on, and ends with the same
    scores. OUT/run.json says what was run, OUT/scores/ has a file for each task, OUT/queries/ a
    line for each query. `mmembed eval report` makes tables of them. Printed are the main metric
    of each task and its 95 % bootstrap interval over queries.

    \b
    Examples:
      mmembed eval run --suite nano-emoji --model run/model --out results/mine
      mmembed eval run -s mmeb-v2 --data-root MMEB-V2 --plan plan -m M -o results/M --store vectors
      mmembed eval run -s mmeb-v2 --data-root MMEB-V2 -m M -o results/M --only DocVQA --only GQA
    """
    from mmembed.evaluation import runs
    from mmembed.evaluation.bootstrap import task_interval
    from mmembed.evaluation.results import read_results

    results = runs.run(
        suite,
        model,
        out,
        data_root=data_root,
        store=store,
        profile=profile,
        selection=selection(only, modality, group),
        plan=plan,
        processes=processes,
        device=device,
        dtype=dtype,
        num_threads=num_threads,
        num_workers=num_workers,
        allow_missing=allow_missing,
        again=again,
        part=_part(part, store),
        loader=loader or runs.LOADER,
    )
    truncated = results.record["items"]["truncated"]
    if truncated:
        say(f"{truncated:,} of the items that were encoded now were too long and were cut")
    if part is not None:
        say(f"{results.record['items']['encoded']:,} encoded in part {part}; no scores yet")
        return
    width = max(map(len, results.tasks))
    for name, result in read_results(out, with_queries=True).tasks.items():
        found = task_interval(result)
        ends = "" if found is None else f"({found.low:.4f} to {found.high:.4f})"
        notes = ["partial"] if result.is_partial else []
        if result.tie_affected:
            notes.append(f"{result.tie_affected} queries decided by ties")
        if result.card.note.startswith("subset"):
            notes.append(result.card.note.partition(";")[0])
        values = f"{result.value():8.4f}  {ends:18}"
        line = f"{values}  {result.card.main_metric:13} {'; '.join(notes)}"
        typer.echo(f"{printable(name):{width}}  {line}".rstrip())
    items, record = results.record["items"], results.record
    say(
        f"{items['asked']:,} items asked, {items['distinct']:,} distinct, {items['cached']:,} had "
        f"vectors, {items['encoded']:,} encoded; {record['wall_seconds']:,.1f} s; wrote {out}"
    )
    partial = {name: len(each.missing) for name, each in results.tasks.items() if each.missing}
    if partial:
        say(
            f"partial, for {sum(partial.values()):,} files are missing: {', '.join(partial)}; no "
            "mean takes such scores in"
        )
    if record["calibration"] == "uncalibrated":
        say("uncalibrated: a part of each task; compare such numbers with each other only")


def _part(text: str | None, store: Path | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, count = text.partition("/")
    if not (first.isdigit() and count.isdigit()):
        raise ConfigError(f"--part is {text!r}; give I/N, e.g. 0/8")
    if store is None:
        raise ConfigError("--part needs --store, a folder that all machines share")
    return int(first), int(count)
