"""What the cells of annotations may hold. They come from strangers, and any row may be broken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mmembed.errors import DataError, InputError

__all__ = [
    "CAPTION",
    "CLIPS",
    "INDEX",
    "MAYBE_PATH",
    "MAYBE_PATHS",
    "MAYBE_TEXT",
    "MAYBE_TEXTS",
    "NAME",
    "NUMBER",
    "OPTIONS",
    "TEXT",
    "TEXTS",
    "Kind",
    "check_cells",
    "check_row",
    "is_safe",
    "shortened",
]

_SHOWN = 120


@dataclass(frozen=True)
class Kind:
    """What a column holds, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def check_row(task: str, number: int, row: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Refuse a row that lacks one of these columns, or holds something else in it.

    Raises:
        DataError: with the names of task and column and the number of the row.
    """
    for column, kind in kinds.items():
        if column not in row:
            raise DataError(
                f"{task}, row {number}: no column {column!r}; found {', '.join(map(str, row))}"
            )
        if not kind.holds(row[column]):
            raise DataError(
                f"{task}, row {number}, column {column!r}: found {shortened(row[column])}; "
                f"expected {kind.words}"
            )


def check_cells(row: Mapping[str, Any], kinds: Mapping[str, Kind], where: str) -> None:
    """Refuse a row of training data that lacks one of these columns, or holds something else.

    Raises:
        InputError: `invalid_type`; the message begins with `where`.
    """
    for column, kind in kinds.items():
        if column not in row:
            found = ", ".join(map(str, row)) or "none"
            raise InputError("invalid_type", f"{where}: no column {column!r}; found {found}")
        if not kind.holds(row[column]):
            raise InputError(
                "invalid_type",
                f"{where}, column {column!r}: found {shortened(row[column])}; "
                f"expected {kind.words}",
            )


def shortened(value: Any) -> str:
    """What a message says of a value, however long it is."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def is_safe(path: str) -> bool:
    """Whether a path names something, is relative, and does not leave its folder."""
    parts = path.replace("\\", "/").split("/")
    outside = not parts[0] or ".." in parts or ":" in parts[0]
    return not outside and path != "." and "\0" not in path


def _is_text(value: Any) -> bool:
    """Half a surrogate pair can be written in JSON and nowhere else."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_path(value: Any) -> bool:
    return _is_text(value) and is_safe(value)


def _list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _maybe(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or value == "" or holds(value)


def _is_clip(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get("output_path"))


_PATH_WORDS = "paths, which must be relative and stay inside the folder of the data"

TEXT = Kind("a text", _is_text)
TEXTS = Kind("a list of texts", _list_of(_is_text))
MAYBE_TEXT = Kind("a text or nothing", _maybe(_is_text))
MAYBE_TEXTS = Kind("a list of texts", _maybe(_list_of(_maybe(_is_text))))
MAYBE_PATH = Kind(f"a path or nothing; of {_PATH_WORDS}", _maybe(_is_path))
MAYBE_PATHS = Kind(f"a list of {_PATH_WORDS}", _maybe(_list_of(_maybe(_is_path))))
NAME = Kind(
    "a name or a whole number",
    lambda value: _is_whole(value) or (_is_text(value) and bool(value.strip())),
)
INDEX = Kind(
    "a whole number",
    lambda value: _is_whole(value) or (isinstance(value, str) and value.strip().isdecimal()),
)
NUMBER = Kind("a number", _is_number)
OPTIONS = Kind(
    "a list of 1 to 26 texts", lambda value: TEXTS.holds(value) and 1 <= len(value) <= 26
)
CAPTION = Kind(
    "a text or a list of texts",
    lambda value: _is_text(value) or (TEXTS.holds(value) and bool(value)),
)
CLIPS = Kind("a list of objects with `output_path`", _list_of(_is_clip))
