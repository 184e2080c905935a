"""Which picture stands for a row, a page of its file, or an upload."""

from __future__ import annotations

from pathlib import Path

from mmembed.demo.files import indexed_file
from mmembed.demo.pictures import Picture, PictureCache, fit_width, render
from mmembed.inputs.media import MediaPart
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.search.rows import Row
from mmembed.server.errors import RequestError
from mmembed.types import Image, Page, Video

__all__ = ["Thumbnails", "part_of", "poster_part"]


class Thumbnails:
    """Makes and keeps the pictures of rows and uploads."""

    def __init__(self, decoder: MediaDecoder, max_bytes: int) -> None:
        self.decoder = decoder
        self.cache = PictureCache(max_bytes)

    def of_row(self, row: Row, width: int, page: int | None = None) -> Picture:
        """The picture of a row, or of another `page` of its file.

        Raises:
            RequestError: 404 for a text, 410 when the file is not what was indexed.
            InputError: the file cannot be decoded.
        """
        if row.kind == "text":
            raise RequestError(404, "no_picture", "a text has no picture")
        if page is not None and row.kind != "pdf":
            raise RequestError(404, "no_pages", "only a PDF has pages")
        path = indexed_file(row)
        if row.kind == "pdf" and page is not None:
            part: MediaPart = Page(path, pages=str(page))
        else:
            part = part_of(row, path)
        width = fit_width(width)
        key = (row.content_hash or row.path, row.mtime_ns, _place(part), width)
        return self.cache.get(key, lambda: render(self.decoder, part, width))

    def of_upload(self, upload: str, part: MediaPart, width: int) -> Picture:
        width = fit_width(width)
        key = ("upload", upload, _place(part), width)
        return self.cache.get(key, lambda: render(self.decoder, part, width))


def part_of(row: Row, path: Path) -> MediaPart:
    """What a row shows: its page, or its clip in the middle of the seconds that matched."""
    if row.kind == "image":
        return Image(path)
    if row.kind == "pdf":
        return Page(path, pages=str(row.page or 1))
    return poster_part(path, row.start_seconds, row.end_seconds)


def poster_part(path: Path, start: float | None, end: float | None) -> Video:
    """The frame of a clip that shows most of what it is about: the one in its middle."""
    low = start or 0.0
    middle = low if end is None else (low + end) / 2
    return Video(path, start=middle, end=end, num_frames=1)


def _place(part: MediaPart) -> tuple[object, ...]:
    if isinstance(part, Page):
        return ("page", part.pages)
    return ("second", part.start) if isinstance(part, Video) else ("image",)
