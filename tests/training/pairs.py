"""Rows that a two-layer model learns in a few steps: colour names and pictures of the colours."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmembed.types import ContrastiveExample, MultimodalInput

__all__ = ["ColourPairs"]

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}


class ColourPairs:
    """Row i: the name of a colour; a picture of it (or its name again); other colours.

    `rich` rows name the classes and score all documents.
    """

    revision = "1"
    license = "CC0-1.0"

    def __init__(
        self,
        size: int = 24,
        *,
        pictures: bool = True,
        hard_negatives: int = 0,
        rich: bool = False,
        broken_row: int | None = None,
        task: str = "retrieval",
    ) -> None:
        self.name = "pictures" if pictures else "names"
        self.task = task
        self._size = size
        self._pictures = pictures
        self._hard_negatives = hard_negatives
        self._broken_row = broken_row
        self._rich = rich

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> ContrastiveExample:
        names = list(COLOURS)
        name = names[index % len(names)]
        document = self._document(name, index)
        others = [names[(index + 1 + n) % len(names)] for n in range(self._hard_negatives)]
        rich: dict[str, Any] = {}
        if self._rich:
            scores = (3.0 - index % 3, *(1.0 / (2 + n) for n in range(len(others))))
            rich = {"label": name, "negative_labels": tuple(others), "scores": scores}
        return ContrastiveExample(
            MultimodalInput.of(f"{name} {index // len(names)}"),
            (document,),
            tuple(self._document(other, index) for other in others),
            **rich,
        )

    def _document(self, name: str, index: int) -> MultimodalInput:
        if index == self._broken_row:
            return MultimodalInput.of({"image": b"no picture"})
        if not self._pictures:
            return MultimodalInput.of(f"the colour {name}")
        pixels = np.full((28, 28, 3), COLOURS[name], dtype=np.uint8)
        return MultimodalInput.of({"image": pixels})
