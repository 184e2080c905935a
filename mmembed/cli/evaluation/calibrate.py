"""`mmembed eval calibrate`: what the numbers of a nano suite are worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["calibrate"]


def calibrate(
    nano: Annotated[
        list[Path], typer.Option("--nano", help="Results of a nano suite; one for each model.")
    ],
    full: Annotated[
        list[Path],
        typer.Option("--full", help="Results of the whole suite, of the same models in turn."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File; name it in the suite as `calibration:`.")
    ],
) -> None:
    """Compare nano runs with full runs of at least three models, and write how far they agree.

    For every mean: the bias (full - nano), its spread over models, their correlation, and how
    many pairs of models both rank alike. A nano suite without such a file is labelled
    uncalibrated.

    \b
    Example:
      mmembed eval calibrate --nano n/A --full f/A --nano n/B --full f/B --nano n/C --full f/C \\
        --out calibration.json
    """
    from mmembed.errors import ConfigError
    from mmembed.evaluation import calibration
    from mmembed.evaluation.results import read_results
    from mmembed.store.durable import write_atomically

    if len(nano) != len(full):
        raise ConfigError(f"{len(nano)} --nano and {len(full)} --full; give one of each per model")
    found = calibration.calibrate(
        [(read_results(n), read_results(f)) for n, f in zip(nano, full, strict=True)]
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, (json.dumps(found, indent=2) + "\n").encode("ascii"))
    for name, agreement in found["aggregates"].items():
        shown = "  ".join(
            f"{key} {'-' if value is None else format(value, '+.3f')}"
            for key, value in agreement.items()
        )
        typer.echo(f"{name:28}  {shown}")
