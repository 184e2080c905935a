"""Render pages of a PDF straight to the size that the model reads, and read their text.

Called by `media.decode` and by the worker. A page is drawn once at its final size, which is four
times faster than drawing it at 200 dpi and shrinking it. MuPDF draws what it can and only notes
what it could not; those notes are collected for each page, so that lost content becomes an error
or a warning and never a silent white page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mmembed.errors import InputError, MissingDependencyError
from mmembed.inputs.media import DecodedMedia, MediaFile, MediaPolicy, open_media
from mmembed.inputs.page_blocks import PageText, read_page
from mmembed.inputs.sizing import MediaBudget, check_aspect_ratio
from mmembed.types import MediaSource, Page

__all__ = [
    "decode_pages",
    "page_blocks",
    "page_count",
    "select_pages",
    "share_of_pages",
]

MIN_SHARE_PAGES = 4  # to open the document once more must cost little beside drawing these


def decode_pages(
    media: MediaFile,
    part: Page,
    budget: MediaBudget,
    policy: MediaPolicy,
    *,
    share: tuple[int, int] = (0, 1),
) -> Iterator[DecodedMedia]:
    """The chosen pages, one at a time.

    Args:
        share: (i, n) for the i-th of n processes that draw a document together.

    Raises:
        InputError: `unsupported_format`, `encrypted`, `wrong_password`, `no_pages`,
            `page_out_of_range`, `too_many_pages`, `corrupt`, `truncated`, and of one page
            (`index` is `("pages", n)`) `corrupt`, `aspect_ratio`, `page_too_large`.
    """
    with _opened(media, part.password) as (document, total):
        with media.naming_errors():
            numbers = select_pages(part.pages, total)
        if len(numbers) > policy.max_pages:
            raise media.error(
                "too_many_pages",
                f"{len(numbers):,} pages; the media policy allows {policy.max_pages:,} for one "
                "item (max_pages). Choose some with pages='1-5'",
            )
        yield DecodedMedia(())  # opening and the first page each have the time limit of a page
        notes: tuple[str, ...] = ("pdf repaired",) if document.is_repaired else ()
        for number in share_of_pages(numbers, *share):
            frame, page_notes = _render(media, document, number, budget, policy)
            yield DecodedMedia((frame,), pages=(number,), warnings=notes + page_notes)


def page_count(
    source: MediaSource,
    policy: MediaPolicy,
    *,
    name: str | None = None,
    password: str | None = None,
) -> int:
    """Number of pages of a PDF."""
    with (
        open_media(source, policy, "pdf", name=name) as media,
        _opened(media, password) as (_, total),
    ):
        return total


def page_blocks(
    source: MediaSource,
    policy: MediaPolicy,
    *,
    page: int,
    count: int,
    max_chars: int,
    name: str | None = None,
    password: str | None = None,
) -> Iterator[PageText]:
    """The text layers of `count` pages from `page` on (fewer at the end), one at a time.

    The document is opened once. A page that cannot be read is empty and says so in its warning.
    """
    with (
        open_media(source, policy, "pdf", name=name) as media,
        _opened(media, password) as (document, total),
    ):
        with media.naming_errors():
            numbers = select_pages(f"{page}-{min(total, page + count - 1)}", total)
        for number in numbers:
            try:
                found = read_page(document.load_page(number - 1), number, max_chars=max_chars)
            except Exception as error:
                found = PageText(number, "", (), _page_error(media, number, error).detail)
            yield found


def select_pages(spec: str | None, total: int) -> list[int]:
    """Page numbers (1-based) that `"3"`, `"1-5"`, `"1,4-6"` or `"7-"` name; None names all.

    Raises:
        InputError: `page_out_of_range`, `invalid_type` for a text that names no pages.
    """
    if spec is None:
        return list(range(1, total + 1))
    numbers: list[int] = []
    for piece in spec.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:(-)\s*(\d{1,9})?\s*)?", piece)
        if match is None:
            raise InputError(
                "invalid_type", f"pages is {spec!r}; write it like '3', '1-5' or '1,4-6'"
            )
        first = int(match[1])
        last = first if match[2] is None else int(match[3]) if match[3] else max(first, total)
        for number in (first, last):
            if not 1 <= number <= total:
                raise InputError(
                    "page_out_of_range",
                    f"page {number} of a document of {total} "
                    f"page{'s' if total > 1 else ''}; pages are counted from 1",
                )
        if last < first:
            raise InputError("invalid_type", f"pages is {spec!r}; {first}-{last} runs backwards")
        numbers.extend(range(first, last + 1))
    return numbers


def share_of_pages(numbers: list[int], index: int, count: int) -> list[int]:
    """Which of these pages process `index` of `count` draws: blocks in order, none too small.

    Without another process knowing how many pages there are, all shares together are `numbers`.
    """
    count = max(1, min(count, len(numbers) // MIN_SHARE_PAGES))
    if index >= count:
        return []
    return numbers[len(numbers) * index // count : len(numbers) * (index + 1) // count]


@contextmanager
def _opened(media: MediaFile, password: str | None) -> Iterator[tuple[Any, int]]:
    """The document and its number of pages."""
    # MuPDF would also open pictures, SVG and HTML; readers accept the mark anywhere in 1,024 bytes
    if b"%PDF-" not in media.head:
        raise media.error("unsupported_format", "not a PDF: no '%PDF-' in its first 1,024 bytes")
    try:
        import pymupdf
    except ImportError:
        raise MissingDependencyError("pymupdf", "documents") from None
    pymupdf.TOOLS.mupdf_display_errors(False)
    pymupdf.TOOLS.mupdf_display_warnings(False)
    try:
        if media.path is not None:
            document = pymupdf.open(str(media.path), filetype="pdf")
        else:
            document = pymupdf.open(stream=media.read(), filetype="pdf")
    except Exception as error:
        raise _open_error(media, error) from None
    try:
        _unlock(media, document, password)
        try:
            total = int(document.page_count)
        except Exception as error:
            raise _open_error(media, error) from None
        if total < 1:
            raise media.error("no_pages", "the document has no pages")
        yield document, total
    finally:
        document.close()


def _unlock(media: MediaFile, document: Any, password: str | None) -> None:
    if not document.needs_pass:
        return
    if password is None:
        raise media.error("encrypted", "the document needs a password; pass password=")
    try:
        unlocked = document.authenticate(password)
    except Exception:  # a password that cannot be encoded
        unlocked = 0
    if not unlocked:
        raise media.error("wrong_password", "the password does not open the document")


def _open_error(media: MediaFile, error: Exception) -> InputError:
    if _lacks_memory(error):
        return media.error("out_of_memory", "not enough memory to open the document")
    if b"%%EOF" not in media.tail(2048):
        return media.error("truncated", "the document ends too early")
    return media.error("corrupt", "the document cannot be opened")


def _page_error(media: MediaFile, number: int, error: Exception) -> InputError:
    index = ("pages", number)
    if _lacks_memory(error):
        return media.error("out_of_memory", f"not enough memory for page {number}", index)
    if type(error).__name__ == "FzErrorLimit":
        return media.error("page_too_large", f"page {number} is too large to be drawn", index)
    return media.error("corrupt", f"page {number} cannot be read", index)


def _lacks_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "alloc" in str(error)


def _render(
    media: MediaFile, document: Any, number: int, budget: MediaBudget, policy: MediaPolicy
) -> tuple[np.ndarray, tuple[str, ...]]:
    """uint8 (height, width, 3) of a page at the size the budget asks for, and warnings."""
    import pymupdf

    index = ("pages", number)
    try:
        page = document.load_page(number - 1)
        width, height = float(page.rect.width), float(page.rect.height)
        lost = _lost_content(document, page)
    except Exception as error:
        raise _page_error(media, number, error) from None
    if not (math.isfinite(width * height) and width > 0 and height > 0):
        raise media.error("corrupt", f"page {number} has no usable size", index)
    if lost:
        raise media.error("corrupt", f"the content of page {number} is missing", index)
    try:
        check_aspect_ratio(height, width)
        scale = policy.page_dpi / 72  # a PDF point is 1/72 inch
        rows, columns = budget.resize(height * scale, width * scale)
    except InputError as error:
        error.part, error.source, error.index = "pdf", media.name, index
        raise
    if rows * columns > policy.max_pixels:
        raise media.error(
            "page_too_large",
            f"page {number} would have {columns:,} x {rows:,} pixels; the media policy allows "
            f"{policy.max_pixels:,} (max_pixels)",
            index,
        )
    pymupdf.TOOLS.reset_mupdf_warnings()
    try:
        drawn = page.get_pixmap(
            matrix=pymupdf.Matrix(columns / width, rows / height),
            colorspace=pymupdf.csRGB,
            alpha=False,
        )
    except Exception as error:
        raise _page_error(media, number, error) from None
    complaints = bool(pymupdf.TOOLS.mupdf_warnings())
    frame = _exactly(drawn, rows, columns)
    if not complaints:
        return frame, ()
    if frame.min() == 255:
        raise media.error("corrupt", f"the content of page {number} is damaged", index)
    return frame, (f"page {number}: damaged content",)


def _lost_content(document: Any, page: Any) -> bool:
    """Whether the page refers to a content stream that is not in the file."""
    kind, value = document.xref_get_key(page.xref, "Contents")
    if kind == "null":
        return False
    streams = page.get_contents()
    if not streams:
        return not (kind == "array" and not value.strip("[] "))
    return not all(document.xref_is_stream(xref) for xref in streams)


def _exactly(drawn: Any, rows: int, columns: int) -> np.ndarray:
    """The pixels as (rows, columns, 3): MuPDF rounds outwards and may add a row or a column."""
    stored = np.frombuffer(drawn.samples_mv, np.uint8).reshape(drawn.height, drawn.stride)
    pixels = stored[:, : drawn.width * 3].reshape(drawn.height, drawn.width, 3)
    if pixels.shape[:2] == (rows, columns):
        return pixels.copy()
    frame = np.full((rows, columns, 3), 255, np.uint8)
    common = pixels[:rows, :columns]
    frame[: common.shape[0], : common.shape[1]] = common
    return frame
