"""What all formats share besides `LocalRows`: cells that hold an item, and their errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from data_adapters.cells import shortened
from mmembed.errors import InputError
from mmembed.tables.local_rows import LocalRows
from mmembed.types import MultimodalInput, Part, Text

__all__ = [
    "FormatRows",
    "item_of",
    "media_of",
    "media_part",
    "number_of",
    "text_item",
    "texts_of",
]

_MEDIA_KEYS = ("image", "video", "pdf", "page")


class FormatRows(LocalRows):
    """The rows of files in one format; arguments as `LocalRows`."""

    def check_task(self, row: Mapping[str, Any], field: str) -> None:
        """Refuse a row of another task than the first one; a data set has one.

        Args:
            field: that says the task.
        """
        task = self.task_of(row)
        if task != self.task and not self.is_task_given:
            raise InputError(
                "invalid_type",
                f"{field}: {shortened(row.get(field))} means the task {task} in a file whose first "
                f"row is {self.task}; a data set has one task: give each its file, or all rows "
                f"this one with task={self.task}",
            )

    def item(self, cell: Any, name: str, instruction: str | None = None) -> MultimodalInput:
        """The item of a cell; `name` is said in errors."""
        try:
            return item_of(cell, self.media_root, instruction)
        except InputError as error:
            raise InputError(error.code, f"{name}: {error.detail}", part=error.part) from None


def item_of(cell: Any, root: Path, instruction: str | None = None) -> MultimodalInput:
    """The item of a cell: text, an embedded picture or clip, or an object as ours are.

    Raises:
        InputError: the cell is empty or something else.
    """
    if isinstance(cell, str):
        return text_item(cell, instruction)
    if isinstance(cell, bytes) or _is_embedded(cell):
        return MultimodalInput((media_part("image", cell, root),), instruction)
    if not isinstance(cell, dict | list):
        raise InputError("invalid_type", f"found {shortened(cell)}; expected a text or an object")
    return MultimodalInput.of(_placed(cell, root), instruction)


def _placed(value: Any, root: Path) -> Any:
    """An object as `MultimodalInput.of` reads it, with relative media below `root`."""
    if isinstance(value, list | tuple):
        return [_placed(entry, root) for entry in value]
    if not isinstance(value, Mapping):
        return value
    placed: dict[str, Any] = {}
    for key, cell in value.items():
        if cell is None:
            continue
        if key in _MEDIA_KEYS and isinstance(cell, list):
            placed[key] = [media_of(each, root) for each in cell]
        elif key in _MEDIA_KEYS and not isinstance(cell, int):
            placed[key] = media_of(cell, root)
        elif key in ("image_url", "video_url"):
            address = cell.get("url") if isinstance(cell, Mapping) else cell
            placed[key] = media_of(address, root)
        elif key == "content":
            placed[key] = _placed(cell, root)
        else:
            placed[key] = cell
    return placed


def text_item(text: Any, instruction: str | None = None) -> MultimodalInput:
    if not isinstance(text, str):
        raise InputError("invalid_type", f"found {shortened(text)}; expected a text")
    if not text.strip():
        raise InputError("empty", "an empty text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError("invalid_text", "half of a surrogate pair: not Unicode") from None
    return MultimodalInput((Text(text),), instruction)


def texts_of(value: Any, name: str) -> list[str]:
    """A list of texts; None is an empty one.

    Raises:
        InputError: something else.
    """
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InputError(
            "invalid_type", f"{name}: found {shortened(value)}; expected a list of texts"
        )
    return value


def number_of(value: Any, name: str) -> float:
    """A finite number; CSV has it as a text.

    Raises:
        InputError: something else.
    """
    try:
        number = float(value) if isinstance(value, str | int | float) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or isinstance(value, bool) or not math.isfinite(number):
        raise InputError("invalid_type", f"{name}: found {shortened(value)}; expected a number")
    return number


def _is_embedded(cell: Any) -> bool:
    return isinstance(cell, Mapping) and bool(cell) and set(cell) <= {"bytes", "path"}


def media_of(cell: Any, root: Path) -> Any:
    """A picture or clip of a cell: bytes, `{"bytes": ..., "path": ...}`, a path, or an address.

    These are the user's own files: an absolute path is taken as it is.

    Raises:
        InputError: something else.
    """
    content, name = cell, cell
    if isinstance(cell, Mapping):
        content, name = cell.get("bytes"), cell.get("path")
    if isinstance(content, bytes) and content:
        return content
    if not isinstance(name, str) or not name:
        raise InputError("empty", f"no picture or clip: {shortened(cell)}")
    is_address = name[:5].lower() == "data:" or "://" in name[:40]
    return name if is_address else root / name


def media_part(kind: Literal["image", "video"], cell: Any, root: Path) -> Part:
    """The part of a cell that holds or names a picture or clip; errors as `media_of`."""
    return MultimodalInput.of({kind: media_of(cell, root)}).parts[0]
