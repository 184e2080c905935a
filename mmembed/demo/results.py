"""Rows and hits as the page reads them: JSON without paths."""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePath
from typing import Any

from mmembed.demo.catalog import Catalog
from mmembed.search.rows import Row
from mmembed.search.searcher import Hit

__all__ = ["describe_boxes", "describe_hit", "describe_row"]

_SHOWN_CHARS = 400


def describe_hit(hit: Hit, row: Row, catalog: Catalog, *, words: str = "") -> dict[str, Any]:
    """With a piece of the text: its beginning, or where one of the words stands."""
    return {
        "score": hit.score,
        "rerank_score": hit.rerank_score,
        **describe_row(row, catalog),
        "text": None if row.text is None else _excerpt(row.text, words),
    }


def describe_row(row: Row, catalog: Catalog) -> dict[str, Any]:
    name = catalog.name(row)
    return {
        "id": name,
        "kind": row.kind,
        "name": PurePath(row.path).name,
        "folder": catalog.folder_label(row.path),
        "place": _place(row),
        "page": row.page,
        "pages": row.items_in_file if row.kind == "pdf" else None,
        "start": row.start_seconds,
        "end": row.end_seconds,
        "duration": row.duration_seconds,
        "modified": _moment(row),
        "text": row.text,
        "thumbnail": None if row.kind == "text" else f"/api/thumbnails/{name}",
        "media": f"/api/media/{name}" if row.kind in ("image", "video") else None,
        "width": None,
        "height": None,
    }


def describe_boxes(row: Row, words: str = "") -> list[dict[str, Any]]:
    """The lines of a page; `matches` where one holds a word that begins with an asked."""
    asked = tuple(word for word in words.casefold().split() if len(word) > 1)
    text = row.text or ""
    boxes = []
    for box in row.boxes:
        inside = text[box.start : box.end]
        found = (each.strip("\"'([{.,;:!?") for each in inside.casefold().split())
        boxes.append(
            {
                "left": box.left,
                "top": box.top,
                "right": box.right,
                "bottom": box.bottom,
                "text": inside,
                "matches": any(each.startswith(asked) for each in found),
            }
        )
    return boxes


def _excerpt(text: str, words: str) -> str:
    if len(text) <= _SHOWN_CHARS:
        return text
    lowered = text.lower()
    places = [lowered.find(word) for word in words.lower().split() if len(word) > 1]
    first = min((place for place in places if place >= 0), default=0)
    start = max(0, first - _SHOWN_CHARS // 4)
    if start:
        start = text.rfind(" ", 0, start) + 1  # at a word
    piece = text[start : start + _SHOWN_CHARS].strip()
    is_end = start + _SHOWN_CHARS >= len(text)
    return f"{'... ' if start else ''}{piece}{'' if is_end else ' ...'}"


def _place(row: Row) -> str:
    return Hit(
        score=0.0,
        path=row.path,
        kind=row.kind,
        page=row.page,
        start_seconds=row.start_seconds,
        end_seconds=row.end_seconds,
    ).place


def _moment(row: Row) -> str | None:
    if not row.mtime_ns:
        return None
    return datetime.fromtimestamp(row.modified).astimezone().isoformat(timespec="seconds")
