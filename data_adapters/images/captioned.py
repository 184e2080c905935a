"""A picture and what is said of it as a training row, in one of two directions.

`t2i`: the caption asks for the picture, a row for each caption. `i2t`: the picture asks for its
captions, a row for each picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_adapters.cells import TEXT, shortened
from data_adapters.document_ids import document_id, document_ids
from mmembed.errors import ConfigError, InputError
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Task, Text

__all__ = ["caption_of", "captioned", "check_direction", "names_of"]

DIRECTIONS = ("t2i", "i2t")


def check_direction(direction: str, allowed: Sequence[str] = DIRECTIONS) -> str:
    if direction not in allowed:
        raise ConfigError(f"direction {direction!r} is unknown; known: {', '.join(allowed)}")
    return direction


def names_of(columns: str | Sequence[str], option: str) -> tuple[str, ...]:
    """One or several names of columns, as an option gives them."""
    names = (columns,) if isinstance(columns, str) else tuple(columns)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{option} must be the name of a column or a list of them: {columns!r}")
    return names


def caption_of(value: Any, what: str, where: str) -> str:
    """Text without the blanks around it.

    Raises:
        InputError: `empty`, `invalid_type`: there is none.
    """
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        raise InputError("empty", f"{where}: {what} is empty")
    if not TEXT.holds(value):
        raise InputError("invalid_type", f"{where}: {what} is {shortened(value)}; expected a text")
    text: str = value.strip()
    return text


def captioned(
    task: Task,
    image: Image,
    captions: Sequence[str],
    direction: str,
    *,
    root: Path | None = None,
    image_id: str = "",
) -> ContrastiveExample:
    """The row of a picture and one caption (`t2i`), or all of them (`i2t`).

    Args:
        root: folder that paths in ids count from.
        image_id: names the picture's content; made of its path or bytes if empty.
    """
    picture = MultimodalInput((image,))
    texts = tuple(MultimodalInput((Text(caption),)) for caption in captions)
    if direction == "i2t":
        return ContrastiveExample(picture, texts, task=task, positive_ids=document_ids(texts))
    (query,) = texts
    name = image_id or document_id(picture, root)
    return ContrastiveExample(query, (picture,), task=task, positive_ids=(name,))
