"""`python -m benchmarks run --suite text --against sentence-transformers,transformers`.

Measures mmembed and its peers in turn on the same work, writes a dated JSON and prints a table.
Ratios are the peer's cost divided by ours within one round: above 1 mmembed needs less.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from benchmarks.encoding import LONG_TAIL
from benchmarks.machine import machine, when
from benchmarks.measurement import Running, Start, measure
from benchmarks.process import InThisProcess, SideProcess
from benchmarks.settings import MODELS, Dtype, Part, Settings
from benchmarks.suites import SUITES
from benchmarks.tables import markdown

RESULTS = Path(__file__).parent / "results"
SuiteName = StrEnum("SuiteName", {name: name for name in SUITES})  # type: ignore[misc]
ModelName = StrEnum("ModelName", {name: name for name in MODELS})  # type: ignore[misc]

app = typer.Typer(add_completion=False, no_args_is_help=True)
console = Console()


@app.callback()
def main() -> None:
    """Compare mmembed with its peers on this machine."""


@app.command()
def run(
    suite: Annotated[SuiteName, typer.Option(help="What to measure.")],
    against: Annotated[
        str | None, typer.Option(help="Peers, with commas; default: those of the suite.")
    ] = None,
    items: Annotated[
        int | None,
        typer.Option(min=1, help="Texts, images or pages; frames of the long clip of video."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    sizes: Annotated[
        str | None, typer.Option(help="Of train, loss, data, index, growth: pairs, rows, texts.")
    ] = None,
    length_spread: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Of text lengths: deviation of their logarithm. "
            f"Default: {LONG_TAIL} (text), 0.6 (growth).",
        ),
    ] = None,
    images_from: Annotated[
        Literal["memory", "file"], typer.Option(help="PIL images, or JPEG files.")
    ] = "memory",
    image_tokens: Annotated[
        tuple[int, int], typer.Option(help="Least and most tokens of one image.")
    ] = (4, 256),
    image_side: Annotated[
        int | None, typer.Option(min=1, help="Squares of so many pixels instead of photos.")
    ] = None,
    part: Annotated[
        Part, typer.Option(help="Of the suite image: all of it, or files to tensors only.")
    ] = "encode",
    scaled_jpeg: Annotated[
        bool, typer.Option("--scaled-jpeg", help="Ours decodes JPEG files at a part of their size.")
    ] = False,
    width: Annotated[int, typer.Option(min=1, help="Of the suite loss: of embeddings.")] = 1024,
    model: Annotated[
        ModelName | None,
        typer.Option(help="Sizes of the random model. Default: micro (growth), tiny (others)."),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of every side that runs a model.")] = "float32",
    device: Annotated[str, typer.Option(help="Of every side that runs a model.")] = "cpu",
    peak_tflops: Annotated[
        float | None, typer.Option(help="Of the GPU, for MFU; default: by its name.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Cores that each side may use. Default: all.")
    ] = None,
    one_process: Annotated[
        bool, typer.Option("--one-process", help="Start sooner; memory then says little.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder of the JSON results.")] = RESULTS,
) -> None:
    """Measure every side in turn and report ratios."""
    if one_process and threads:
        raise typer.BadParameter("--threads needs processes; leave --one-process away")
    settings = Settings(
        suite=suite,
        peers=_peers(suite, against),
        rounds=rounds,
        items=items,
        sizes=_numbers(sizes),
        length_spread=length_spread,
        images_from=images_from,
        image_tokens=image_tokens,
        image_side=image_side,
        part=part,
        scaled_jpeg=scaled_jpeg,
        width=width,
        model=model,
        dtype=dtype,
        device=device,
        peak_tflops=peak_tflops,
        threads=threads,
    )

    def begin(start: Start) -> Running:
        return InThisProcess(start) if one_process else SideProcess(start, threads)

    with tempfile.TemporaryDirectory() as scratch:
        results = [
            measure(case, rounds=rounds, begin=begin, progress=_say)
            for case in SUITES[suite].cases(settings, Path(scratch))
        ]
    record: dict[str, Any] = {
        **when(),
        "suite": suite,
        "settings": asdict(settings),
        "results": results,
        "machine": machine(device),
    }
    record["notes"] = SUITES[suite].notes(record)
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{datetime.now(UTC):%Y-%m-%d-%H%M%S}-{suite}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    _print(markdown(record))
    _print(f"\nwritten to {path}")


@app.command()
def table(
    records: Annotated[
        list[Path] | None, typer.Argument(help="Default: all of this layout in benchmarks/results.")
    ] = None,
) -> None:
    """Print the tables of results again."""
    for path in records or sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if records is None and "settings" not in record:
            continue
        try:
            _print(markdown(record) + "\n")
        except ValueError as error:
            raise typer.BadParameter(f"{path}: {error}") from error


def _peers(suite: str, against: str | None) -> tuple[str, ...]:
    known = SUITES[suite].peers
    if against is None:
        return SUITES[suite].default_peers
    given = tuple(against.split(","))
    unknown = [peer for peer in given if peer not in known]
    if unknown:
        raise typer.BadParameter(
            f"suite {suite} does not know {', '.join(unknown)}; "
            f"it knows: {', '.join(known) or 'no peer'}"
        )
    return given


def _numbers(listed: str | None) -> tuple[int, ...] | None:
    return None if listed is None else tuple(int(number) for number in listed.split(","))


def _say(progress: str) -> None:
    console.print(progress, markup=False, highlight=False)


def _print(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
