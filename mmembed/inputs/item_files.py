"""Reads items from a JSON-lines file: one item a line, media named relative to the file.

    {"id": "cat", "image": "photos/cat.jpg", "text": "a cat"}
    "a line may also be a bare string, which is text"

In front of everything else for `mmembed encode`; the line's keys are those of
`MultimodalInput.of`, and `id`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmembed.errors import ConfigError, InputError
from mmembed.types import MultimodalInput, Text

__all__ = ["FileItem", "beside", "read_items"]


@dataclass(frozen=True)
class FileItem:
    """One line: its name, and the item or why it is none."""

    id: str
    item: MultimodalInput | InputError


def read_items(path: Path) -> list[FileItem]:
    """All items of a file, in order; empty lines are passed over.

    `id` defaults to the line number, from 1. A line that is no item keeps its place as an
    `InputError`, so that the caller decides what a bad line costs.

    Raises:
        ConfigError: the file cannot be read, or two lines have the same id.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start:,} is not UTF-8") from None
    items: list[FileItem] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, parsed = _parse(line, number)
        if name in seen:
            raise ConfigError(f"{path}: lines {seen[name]} and {number} have the same id {name!r}")
        seen[name] = number
        if isinstance(parsed, MultimodalInput):
            parsed = beside(path.parent, parsed)
        items.append(FileItem(name, parsed))
    return items


def beside(folder: Path, item: MultimodalInput) -> MultimodalInput:
    """The item with its relative media paths taken from `folder`; others stay as they are."""

    def placed(source: Any) -> Any:
        if isinstance(source, tuple):
            return tuple(placed(frame) for frame in source)
        return folder / source if isinstance(source, Path) else source

    parts = [
        part if isinstance(part, Text) else replace(part, source=placed(part.source))
        for part in item.parts
    ]
    return replace(item, parts=tuple(parts))


def _parse(line: str, number: int) -> tuple[str, MultimodalInput | InputError]:
    name = str(number)
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return name, InputError("invalid_type", f"line {number} is not valid JSON")
    if isinstance(value, dict):
        name = str(value.pop("id", name))
    try:
        return name, MultimodalInput.of(value)
    except InputError as error:
        return name, error
