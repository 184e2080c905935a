"""What the model read for a row, built again: for reranking, migration, thumbnails and explaining.

cut_file -> Row -> row_item -> MultimodalInput
"""

from __future__ import annotations

from pathlib import Path

from mmembed.search.rows import Row
from mmembed.types import Image, MultimodalInput, Page, Part, Text, Video

__all__ = ["row_item"]


def row_item(row: Row, *, instruction: str | None = None) -> MultimodalInput:
    """The item of a row, as `cut_file` made it; nothing is opened.

    A passage comes from the row itself, everything else is read from the file at `row.path` when
    the item is used.

    Args:
        instruction: the one that items were indexed with.
    """
    return MultimodalInput((_part(row),), instruction)


def _part(row: Row) -> Part:
    if row.kind == "text":
        return Text(row.text or "")
    path = Path(row.path)
    if row.kind == "image":
        return Image(path)
    if row.kind == "pdf":
        return Page(path, pages=str(row.page or 1))
    if row.items_in_file == 1:
        return Video(path)
    is_last = row.duration_seconds is not None and row.end_seconds == row.duration_seconds
    return Video(path, start=row.start_seconds, end=None if is_last else row.end_seconds)
