"""Reads items from a JSON-lines file: one item a line, media named relative to the file.

    {"id": "cat", "image": "photos/cat.jpg", "text": "a cat"}
    "a line may also be a bare string, which is text"

In front of everything else for `mmembed encode`; the line's keys are those of
`MultimodalInput.of`, and `id`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmembed.errors import ConfigError, InputError
from mmembed.types import MultimodalInput, Text

__all__ = ["FileItem", "beside", "file_item", "line_value", "lines_of", "read_items"]


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
    items: list[FileItem] = []
    seen: dict[str, int] = {}
    for number, _, line in lines_of(path):
        entry = file_item(*line_value(line, number), folder=path.parent)
        if entry.id in seen:
            raise ConfigError(
                f"{path}: lines {seen[entry.id]} and {number} have the same id {entry.id!r}"
            )
        seen[entry.id] = number
        items.append(entry)
    return items


def lines_of(
    path: Path,
    *,
    offset: int = 0,
    number: int = 1,
    also: Callable[[bytes], object] | None = None,
) -> Iterator[tuple[int, int, str]]:
    """(line number, byte offset, line) of each line that is not blank, one at a time.

    Args:
        offset, number: where to begin, as an earlier call gave them.
        also: is called with the bytes of every line.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            for place, line in enumerate(file, number):
                if also is not None:
                    also(line)
                try:
                    text = line.decode("utf-8" if offset else "utf-8-sig")
                except UnicodeDecodeError as error:
                    first = offset + error.start
                    raise ConfigError(
                        f"{path}, line {place}: byte {first:,} is not UTF-8"
                    ) from None
                if text.strip():
                    yield place, offset, text
                offset += len(line)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None


def line_value(line: str, number: int, prefix: str = "") -> tuple[str, Any]:
    """(id, what the line holds without it); an `InputError` when it is not JSON.

    A line that brings no id is called by its number, behind `prefix`.
    """
    name = f"{prefix}{number}"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return name, InputError("invalid_type", f"line {number} is not valid JSON")
    if isinstance(value, dict):
        given = value.pop("id", None)
        name = name if given is None else str(given)
    return name, value


def file_item(name: str, value: Any, *, folder: Path) -> FileItem:
    """The item that `value` describes, with media beside `folder`, or why it is none."""
    if isinstance(value, InputError):
        return FileItem(name, value)
    try:
        return FileItem(name, beside(folder, MultimodalInput.of(value)))
    except InputError as error:
        return FileItem(name, error)


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
