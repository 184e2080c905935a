"""Clips of a data set: a file, or a folder of saved frames; and the training row of a clip.

`t2v`: a text asks for the clip. `v2t`: the clip asks for the text. `qa`: clip and question ask for
the answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_adapters.document_ids import document_ids
from data_adapters.media import safe_path
from data_adapters.text.items import item, number
from mmembed.datasets import DatasetCard
from mmembed.errors import ConfigError, DataError, InputError
from mmembed.types import ContrastiveExample, MultimodalInput, Text, Video

__all__ = ["ClipFolder", "check_direction", "clip_row", "file_of", "part_of"]

DIRECTIONS = ("t2v", "v2t", "qa")
_FRAMES = {".jpg", ".jpeg", ".png", ".webp"}
_CLIPS = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".mpg", ".m4v", ".wmv", ".flv", ".3gp", ".gif")


@dataclass(frozen=True)
class ClipFolder:
    """Where the clips lie.

    Args:
        num_frames: that are taken of each clip, evenly; None = the model's default.
        frames_per_second: of saved frames, so that a part of a clip can be found among them.
    """

    card: DatasetCard
    folder: Path
    num_frames: int | None = None
    frames_per_second: float | None = None

    def clip(
        self, name: Any, where: str, part: tuple[float, float] | None = None
    ) -> tuple[Video, str]:
        """A clip, and an id of what it shows.

        A name without its suffix, or with the suffix of another format, is found too.

        Raises:
            InputError: an unsafe name, or nothing there.
        """
        path = self._find(safe_path(self.folder, name, where=where), where)
        label = f"{self.card.repo or self.card.name}/{name}"
        if part is not None:
            label = f"{label}#{part[0]:g}-{part[1]:g}"
        if not path.is_dir():
            start, end = part or (None, None)
            return Video(path, num_frames=self.num_frames, start=start, end=end), label
        frames = tuple(sorted(file for file in path.iterdir() if file.suffix.lower() in _FRAMES))
        if part is not None:
            frames = self._part(frames, part, where)
        if not frames:
            raise InputError("no_frames", f"{where}: no frames in {path}", part="video")
        return Video(frames, num_frames=self.num_frames), label

    def _find(self, path: Path, where: str) -> Path:
        if path.is_dir() or path.is_file():
            return path
        without = path.with_suffix("") if path.suffix.lower() in _CLIPS else path
        candidates = (without, *(without.with_name(without.name + suffix) for suffix in _CLIPS))
        for other in candidates:
            if other.is_dir() or other.is_file():
                return other
        raise InputError(
            "not_found",
            f"{where}: {path} is neither a clip nor a folder of frames",
            part="video",
            source=path.name,
        )

    def _part(
        self, frames: tuple[Path, ...], part: tuple[float, float], where: str
    ) -> tuple[Path, ...]:
        if self.frames_per_second is None:
            raise InputError(
                "invalid_type",
                f"{where}: seconds {part[0]:g} to {part[1]:g} of saved frames; give "
                "frames_per_second, the rate they were saved at",
                part="video",
            )
        first, last = (seconds * self.frames_per_second for seconds in part)
        return frames[math.floor(first) : max(math.floor(first) + 1, math.ceil(last))]


def check_direction(direction: str, allowed: tuple[str, ...] = DIRECTIONS) -> str:
    if direction not in allowed:
        raise ConfigError(f"direction {direction!r} is unknown; known: {', '.join(allowed)}")
    return direction


def clip_row(
    card: DatasetCard, clip: Video, clip_id: str, words: str, direction: str, question: str = ""
) -> ContrastiveExample:
    """The training row of a clip and its text."""
    shown = MultimodalInput((clip,))
    if direction == "t2v":
        return ContrastiveExample(item(words), (shown,), task=card.task, positive_ids=(clip_id,))
    query = MultimodalInput((clip, Text(question))) if direction == "qa" else shown
    answers = (item(words),)
    return ContrastiveExample(query, answers, task=card.task, positive_ids=document_ids(answers))


def part_of(row: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    """Seconds `start` to `end` of a row; None where it means the whole clip.

    Raises:
        InputError: no numbers, or not in order.
    """
    cells = [row.get(name) for name in ("start", "end")]
    if all(cell is None for cell in cells):
        return None
    start, end = (
        number(cell, name, where) for cell, name in zip(cells, ("start", "end"), strict=True)
    )
    if not 0 <= start < end:
        raise InputError(
            "invalid_type", f"{where}: the part from {start:g} to {end:g} seconds is no part"
        )
    return start, end


def file_of(card: DatasetCard, folder: Path, name: str) -> Path:
    """An annotation file below `folder`; `{config}` and `{split}` are the card's."""
    file = folder / name.format(config=card.config, split=card.split)
    if file.is_file():
        return file
    how = f"mmembed data fetch {card.name}" if card.repo else f"get it as {card.url} says"
    raise DataError(f"data set {card.name!r}: {file} is not there; {how}")
