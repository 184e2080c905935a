"""`python -m benchmarks run --suite text --against sentence-transformers`.

Writes a random checkpoint, saves it as a model folder that both sides load, encodes the same items
with both in turn, and reports ratios: above 1 means that mmembed is faster or needs less.
"""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console

from benchmarks.isolation import compare_isolation, isolation_markdown
from benchmarks.items import make_pictures, make_texts, save_pictures
from benchmarks.losses import compare_losses, losses_markdown
from benchmarks.measurement import Cost, compare, spread
from benchmarks.peers import PEERS, load_ours
from benchmarks.training import compare_training, training_markdown
from mmembed.encoder.checkpoint import load_encoder, save_encoder
from mmembed.encoder.scratch import create_checkpoint

RESULTS = Path(__file__).parent / "results"
# About 5 million parameters: small enough for a laptop, large enough that arithmetic counts.
TINY: dict[str, Any] = {
    "vocab_size": 4000,
    "hidden_size": 256,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "intermediate_size": 768,
    "vision_depth": 4,
    "vision_width": 128,
    "vision_heads": 4,
}
PROMPT_WORDS = "system user assistant You are a helpful assistant. Represent this in one word."
Suite = Literal["text", "image", "loss", "isolation", "train"]

app = typer.Typer(add_completion=False, no_args_is_help=True)
console = Console()


@app.callback()
def main() -> None:
    """Compare mmembed with a peer on this machine."""


@app.command()
def run(
    suite: Annotated[
        Suite, typer.Option(help="What to encode; or losses on given embeddings.")
    ] = "text",
    against: Annotated[str, typer.Option(help=f"One of: {', '.join(PEERS)}.")] = (
        "sentence-transformers"
    ),
    items: Annotated[int | None, typer.Option(help="Default: 1,000 texts or 200 images.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    length_spread: Annotated[
        float, typer.Option(min=0, help="Of text lengths: deviation of their logarithm.")
    ] = 0.6,
    images_from: Annotated[
        Literal["memory", "file"], typer.Option(help="PIL images, or PNG and JPEG files.")
    ] = "memory",
    image_tokens: Annotated[
        tuple[int, int], typer.Option(help="Least and most tokens of one image.")
    ] = (4, 256),
    threads: Annotated[int | None, typer.Option(help="Threads of torch.")] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Of the suites loss and train: queries in a batch.")
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Of the loss suite: of embeddings.")] = 1024,
    output: Annotated[Path, typer.Option(help="Folder of the JSON results.")] = RESULTS,
) -> None:
    """Encode the same items with both sides in turn and report ratios."""
    if suite == "loss":
        given_sizes = _numbers(sizes or "4096,8192,16384")
        _run_losses(given_sizes, width=width, rounds=rounds, threads=threads, output=output)
        return
    if suite == "train":
        given_sizes = _numbers(sizes or "256,1024,4096")
        _run_training(given_sizes, rounds=rounds, threads=threads, output=output)
        return
    if suite == "isolation":
        _run_isolation(rounds=rounds, output=output)
        return
    if against not in PEERS:
        raise typer.BadParameter(f"{against!r} is unknown; known: {', '.join(PEERS)}")
    if threads:
        torch.set_num_threads(threads)
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        folder, parameters = _model_folder(Path(scratch), image_tokens)
        given = _items(suite, items, length_spread, images_from, Path(scratch))
        ours, theirs = load_ours(folder), PEERS[against](folder)
        pairs, difference = compare(
            lambda: ours(given),
            lambda: theirs(given),
            rounds=rounds,
            progress=lambda done: console.print(f"round {done} of {rounds}", highlight=False),
        )
    record = {
        **_when(),
        "suite": suite,
        "against": against,
        "items": len(given),
        "length_spread": length_spread if suite == "text" else None,
        "images_from": images_from if suite == "image" else None,
        "image_tokens": image_tokens if suite == "image" else None,
        "parameters": parameters,
        "model": TINY,
        "max_1_minus_cos": difference,
        "ratios": _ratios(pairs),
        "rounds": [{"mmembed": asdict(a), against: asdict(b)} for a, b in pairs],
        "machine": _machine(against),
    }
    _write(record, _markdown(record, pairs), output)


def _run_losses(
    sizes: list[int], *, width: int, rounds: int, threads: int | None, output: Path
) -> None:
    results = compare_losses(
        sizes,
        width=width,
        rounds=rounds,
        threads=threads,
        progress=lambda done: console.print(done, highlight=False),
    )
    record = {
        **_when(),
        "suite": "loss",
        "results": results,
        "machine": _machine("sentence-transformers") | ({"threads": threads} if threads else {}),
    }
    _write(record, losses_markdown(results), output)


def _numbers(listed: str) -> list[int]:
    return [int(number) for number in listed.split(",")]


def _run_training(sizes: list[int], *, rounds: int, threads: int | None, output: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder, parameters = _model_folder(Path(scratch), (4, 256))
        results = compare_training(
            folder,
            sizes,
            rounds=rounds,
            threads=threads,
            progress=lambda done: console.print(done, highlight=False),
        )
    record = {
        **_when(),
        "suite": "train",
        "parameters": parameters,
        "model": TINY,
        "results": results,
        "machine": _machine("sentence-transformers") | ({"threads": threads} if threads else {}),
    }
    _write(record, training_markdown(results), output)


def _run_isolation(*, rounds: int, output: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        results = compare_isolation(
            Path(scratch),
            rounds=rounds,
            progress=lambda done: console.print(done, highlight=False),
        )
    record = {
        **_when(),
        "suite": "isolation",
        "results": results,
        "machine": _machine("sentence-transformers"),
    }
    _write(record, isolation_markdown(results), output)


def _write(record: dict[str, Any], table: str, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
    path = output / f"{stamp}-{record['suite']}.json"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nwritten to {path}", markup=False, highlight=False)


def _when() -> dict[str, str]:
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": _commit()}


def _model_folder(scratch: Path, image_tokens: tuple[int, int]) -> tuple[Path, int]:
    """A random checkpoint, saved the way a trained model is; its number of parameters."""
    least, most = image_tokens
    checkpoint = create_checkpoint(
        scratch / "checkpoint",
        # a real vocabulary has the words of the prompt; without them it would be most of a text
        make_texts(2000, seed=1) + [PROMPT_WORDS] * 50,
        min_image_tokens=least,
        max_image_tokens=most,
        weight_scale=2.0,
        **TINY,
    )
    encoder, processor = load_encoder(
        checkpoint, inputs={"image_tokens": {"min": least, "max": most}}
    )
    save_encoder(scratch / "model", encoder, processor)
    return scratch / "model", sum(p.numel() for p in encoder.parameters())


def _items(
    suite: Suite, count: int | None, length_spread: float, images_from: str, scratch: Path
) -> Sequence[Any]:
    if suite == "text":
        return make_texts(count or 1000, spread=length_spread)
    pictures = make_pictures(count or 200)
    return save_pictures(pictures, scratch / "pictures") if images_from == "file" else pictures


_MEASURES: dict[str, Callable[[Cost], float | None]] = {
    "time": lambda cost: cost.seconds,
    "CPU time": lambda cost: cost.cpu_seconds,
    "peak memory": lambda cost: cost.peak_mib,
}


def _ratios(pairs: list[tuple[Cost, Cost]]) -> dict[str, tuple[float, float, float]]:
    """Peer / mmembed: median, least and greatest over the rounds."""
    found = {}
    for name, measure in _MEASURES.items():
        values = [
            their / max(our, 1e-9)
            for ours, theirs in pairs
            if (our := measure(ours)) is not None and (their := measure(theirs)) is not None
        ]
        if values:
            found[name] = spread(values)
    return found


def _markdown(record: dict[str, Any], pairs: list[tuple[Cost, Cost]]) -> str:
    against = record["against"]
    lines = [
        f"{record['items']} items ({record['suite']}), {record['parameters'] / 1e6:.1f}M "
        f"parameters, {len(pairs)} rounds; largest 1 - cosine {record['max_1_minus_cos']:.1e}",
        "",
        f"| | mmembed | {against} | ratio: median (range) |",
        "|---|---|---|---|",
    ]
    units = {"time": "s", "CPU time": "s", "peak memory": "MiB"}
    for name, (middle, least, most) in record["ratios"].items():
        measure = _MEASURES[name]
        sides = [spread([measure(pair[i]) or 0.0 for pair in pairs])[0] for i in (0, 1)]
        lines.append(
            f"| {name} | {sides[0]:.3g} {units[name]} | {sides[1]:.3g} {units[name]} | "
            f"{middle:.2f} ({least:.2f} to {most:.2f}) |"
        )
    return "\n".join(lines)


def _commit() -> str:
    """The commit that was measured; `+changes` when the tree differs from it."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty=+changes", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            cwd=here,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip()


def _machine(against: str) -> dict[str, Any]:
    names = ("mmembed", against, "torch", "transformers", "tokenizers", "numpy", "pillow")
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in names},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "from source"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    app()
