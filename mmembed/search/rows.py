"""What an index holds: a row says where a vector comes from; a match is a row that was found.

segments.cut_file -> Row -> index -> Match -> searcher
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any, Literal, NamedTuple, get_args

from mmembed.errors import StoreError

__all__ = ["KINDS", "Box", "Kind", "Match", "Row", "dump_row", "parse_row", "searchable_text"]

Kind = Literal["text", "image", "video", "pdf"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Box(NamedTuple):
    """A block of text on a page: its edges as shares of the page, and its characters in `text`."""

    left: float
    top: float
    right: float
    bottom: float
    start: int
    end: int


@dataclass(frozen=True)
class Row:
    """One searchable thing: a picture, a page, a clip or a passage of a file.

    Attributes:
        id: unique in the index; the path and, for a part of a file, a fragment.
        path: the file, absolute.
        key: names the vector by content (`content_key`); rows of equal content have equal keys.
        content_hash: sha256 of the whole file.
        size, mtime_ns: bytes and nanoseconds when the file was read.
        items_in_file: how many items the file was cut into; fewer rows mean that some failed.
        cut: names how files were cut (`Segmentation.name`).
        page: 1-based page of a PDF.
        start_seconds, end_seconds: the clip of a video.
        duration_seconds: of the whole video.
        start_char, end_char: the passage of a text file, in characters.
        text: the passage, or the page's text layer.
        boxes: where the text of a page stands.
    """

    id: str
    path: str
    kind: Kind
    key: str = ""
    content_hash: str = ""
    size: int = 0
    mtime_ns: int = 0
    items_in_file: int = 1
    cut: str = ""
    page: int | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    duration_seconds: float | None = None
    start_char: int | None = None
    end_char: int | None = None
    text: str | None = None
    boxes: tuple[Box, ...] = ()

    @property
    def modified(self) -> float:
        """When the file was changed last, in seconds since 1970."""
        return self.mtime_ns / 1e9

    @property
    def suffix(self) -> str:
        """Of the file, in lower case and without the dot."""
        return PurePath(self.path).suffix[1:].lower()


class Match(NamedTuple):
    """A row and its score: the inner product of unit vectors, or what a search of words gives."""

    score: float
    row: Row


_FIELDS = {field.name: field.default for field in fields(Row)}


def dump_row(row: Row) -> bytes:
    """One line of JSON without the fields that are absent."""
    values = {name: value for name, value in vars(row).items() if value is not None}
    if not row.boxes:
        del values["boxes"]
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode("ascii")


def parse_row(line: bytes | str) -> Row:
    """The row of `dump_row`.

    Raises:
        StoreError: a field that this version does not know.
    """
    values: dict[str, Any] = json.loads(line)
    unknown = sorted(set(values) - set(_FIELDS))
    if unknown:
        raise StoreError(
            f"a row of the index has the field {unknown[0]!r}, which this version does not know; "
            "update mmembed"
        )
    if "boxes" in values:
        values["boxes"] = tuple(Box(*box) for box in values["boxes"])
    return Row(**values)


def searchable_text(row: Row) -> str:
    """What full-text search looks into: the words of the file's name, then the row's text."""
    name = " ".join(re.split(r"[\W_]+", PurePath(row.path).name))
    return f"{name}\n{row.text or ''}"
