"""What the commands share: options, loading a model, messages to people.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmembed.errors import ConfigError

if TYPE_CHECKING:
    from mmembed.encoder.embedder import Embedder

__all__ = [
    "SHOWN_FAILURES",
    "Device",
    "Model",
    "TruncateDim",
    "Workers",
    "load_embedder",
    "numbers",
    "printable",
    "say",
    "say_failures",
]

SHOWN_FAILURES = 10

Model = Annotated[str, typer.Option("--model", "-m", help="A model folder or a hub id.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: a GPU when there is one.")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes that decode media; default: the cores.")
]
TruncateDim = Annotated[
    int | None, typer.Option(min=1, help="Keep this many dimensions (Matryoshka models).")
]


def load_embedder(model: str, device: str | None, num_workers: int | None) -> Embedder:
    from mmembed.encoder.embedder import Embedder

    return Embedder.from_pretrained(model, device=device, num_workers=num_workers)


def say_failures(failures: Sequence[tuple[str, Any]]) -> None:
    """Name the first failed items and end with exit code 2; nothing when there are none."""
    if not failures:
        return
    say(f"{len(failures)} failed:")
    for name, failure in failures[:SHOWN_FAILURES]:
        say(f"  {printable(name)}: {failure.code}: {failure.detail}")
    if len(failures) > SHOWN_FAILURES:
        say(f"  and {len(failures) - SHOWN_FAILURES} more")
    raise typer.Exit(2)


def printable(text: str) -> str:
    """Without what could break a terminal: control characters and undecodable bytes of names."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def numbers(option: str, text: str | None) -> list[float] | None:
    """The value of an option that takes several numbers, 0.6,0.4."""
    if text is None:
        return None
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} is {text!r}; give numbers, e.g. 0.6,0.4") from None


def say(message: str) -> None:
    typer.echo(message, err=True)
