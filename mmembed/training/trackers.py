"""Experiment trackers that mirror metrics.jsonl, through accelerate's.

A row becomes `<stage>/<name>` for each number in it. Steps of a later stage go on where the stage
before ended, because trackers take steps in rising order only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers
from accelerate.utils import ProjectConfiguration

from mmembed.errors import ConfigError
from mmembed.training.metrics import Mirror

__all__ = ["TRACKERS", "Tracker", "mirror_of", "running", "tracker_options"]

TRACKERS = ("tensorboard", "wandb", "trackio")
Tracker: TypeAlias = "str | GeneralTracker"
_FOLDER = "trackers"


def tracker_options(trackers: Sequence[Tracker], output: Path) -> dict[str, Any]:
    """The arguments of `Accelerator` that choose trackers; local ones write below `output`.

    Raises:
        ConfigError: a tracker that is unknown or not installed.
    """
    installed = {kind.value for kind in get_available_trackers()}
    for name in trackers:
        if isinstance(name, GeneralTracker):
            continue
        if name not in TRACKERS:
            raise ConfigError(f"tracker {name!r} is unknown; trackers are {', '.join(TRACKERS)}")
        if name not in installed:
            raise ConfigError(
                f"tracker {name!r} is not installed. Install it with: pip install {name}; "
                "metrics.jsonl is written without it"
            )
    if not trackers:
        return {}
    return {
        "log_with": list(trackers),
        "project_config": ProjectConfiguration(
            project_dir=str(output), logging_dir=str(output / _FOLDER)
        ),
    }


@contextlib.contextmanager
def running(
    accelerator: Accelerator, output: Path, *, settings: Mapping[str, str]
) -> Iterator[None]:
    """Start the trackers that `accelerator` was made with, and end them, also after an error.

    Args:
        settings: short facts about the run that trackers show beside its curves.
    """
    if not accelerator.log_with:
        yield
        return
    accelerator.init_trackers(
        output.resolve().name,
        config=dict(settings),
        init_kwargs={"wandb": {"dir": str(output)}},
    )
    try:
        yield
    finally:
        accelerator.end_training()


def mirror_of(accelerator: Accelerator, stage: str, *, steps_before: int) -> Mirror:
    """What sends a row of the metrics of `stage` to the trackers.

    Args:
        steps_before: of the stages before.
    """

    def mirror(row: Mapping[str, Any]) -> None:
        if accelerator.trackers:
            values = {f"{stage}/{name}": value for name, value in _numbers(row)}
            accelerator.log(values, step=steps_before + int(row["step"]))

    return mirror


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a row, those of its mappings as `name/entry`; its step and words are none."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{entry}", number) for entry, number in value.items())
        elif name != "step" and isinstance(value, (int, float)):
            yield name, value
