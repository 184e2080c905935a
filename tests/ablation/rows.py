"""A problem that trains in a blink: colour names, and one that is interrupted on the way."""

from __future__ import annotations

import signal
from pathlib import Path

from mmembed.tasks import RetrievalTask
from mmembed.types import ContrastiveExample, MultimodalInput
from tests.training.pairs import COLOURS, ColourPairs

__all__ = ["Colours", "colour_task", "texts"]


def texts() -> list[str]:
    return [f"the colour {name}" for name in COLOURS] * 4


def colour_task() -> RetrievalTask:
    return RetrievalTask(
        name="colours",
        queries={name: MultimodalInput.of(name) for name in COLOURS},
        corpus={name: MultimodalInput.of(f"the colour {name}") for name in COLOURS},
        relevant={name: {name: 1.0} for name in COLOURS},
    )


class Colours(ColourPairs):
    """Names; where `interrupt` names a file that is missing, a Ctrl-C comes while rows are read."""

    def __init__(self, *, interrupt: str | None = None, seed: int = 0) -> None:
        super().__init__(48, pictures=False)
        self._interrupt = interrupt
        self._begin = seed

    def __getitem__(self, index: int) -> ContrastiveExample:
        if self._interrupt and index == 40 and not Path(self._interrupt).exists():
            Path(self._interrupt).touch()
            signal.raise_signal(signal.SIGINT)
        return super().__getitem__((index + self._begin) % len(self))
