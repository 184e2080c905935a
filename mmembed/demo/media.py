"""Whole media of a row: films as they are, in ranges; pictures encoded anew."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import FileResponse

from mmembed.demo.files import indexed_file
from mmembed.search.rows import Row

__all__ = ["film_response"]

_BRANDS = {b"qt  ": "video/quicktime"}


def film_response(row: Row) -> FileResponse:
    """The file of a clip; starlette answers `Range` with 206 and the pieces.

    Raises:
        RequestError: 410 when the file is not what was indexed.
    """
    path = indexed_file(row)
    return FileResponse(
        path,
        media_type=_media_type(path),
        headers={"cache-control": "private, max-age=300"},
        stat_result=path.stat(),
    )


def _media_type(path: Path) -> str:
    """By content; a browser is never told that a file is a page or a script."""
    with path.open("rb") as file:
        head = file.read(64)
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "video/mp4")
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "video/webm"  # or Matroska, of which browsers play what WebM allows
    if head.startswith(b"OggS"):
        return "video/ogg"
    return "application/octet-stream"
