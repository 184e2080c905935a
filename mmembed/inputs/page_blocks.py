"""The text layer of a page as blocks, one for each line: what stands where.

Used by `documents.page_blocks` inside a decode process; `sandbox.MediaDecoder.page_blocks` is the
way to it. Free of pymupdf itself, so that the parent can read the answers.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

__all__ = ["PageText", "TextBlock", "read_page"]

# control characters, halves of surrogate pairs and the mark of an unknown letter
_UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffd]+")
_BETWEEN = "\n\n"
_SHARE_DIGITS = 5


class TextBlock(NamedTuple):
    """A line. Edges as shares of the page as it is shown, from its upper left corner; and which
    characters of the page's text stand there."""

    left: float
    top: float
    right: float
    bottom: float
    start: int
    end: int


class PageText(NamedTuple):
    """The text layer of one page (1-based); empty for a scan.

    Attributes:
        text: lines in the order of the file, with an empty line between paragraphs.
        warning: why there is less text than on the page; else None.
    """

    page: int
    text: str
    blocks: tuple[TextBlock, ...]
    warning: str | None = None

    @classmethod
    def of(cls, values: Any) -> PageText:
        """From its JSON form."""
        page, text, blocks, warning = values
        return cls(page, text, tuple(TextBlock(*block) for block in blocks), warning)


def read_page(page: Any, number: int, *, max_chars: int) -> PageText:
    """The text of a `pymupdf.Page`; what lies outside of what the page shows is left out.

    Args:
        max_chars: text after so many characters is left out, with a warning.
    """
    import pymupdf

    # hyphens at the ends of lines go; ligatures become letters
    flags = pymupdf.TEXT_DEHYPHENATE | pymupdf.TEXT_MEDIABOX_CLIP
    width, height = float(page.rect.width), float(page.rect.height)
    pieces: list[str] = []
    blocks: list[TextBlock] = []
    length = 0
    for block in page.get_text("dict", flags=flags)["blocks"]:
        between = _BETWEEN
        for line in block.get("lines", ()):  # a picture has none
            text = _cleaned("".join(span["text"] for span in line["spans"]))
            # text is placed on the page before it is turned
            box = pymupdf.Rect(line["bbox"]) * page.rotation_matrix
            left, right = _share(box.x0, width), _share(box.x1, width)
            top, bottom = _share(box.y0, height), _share(box.y1, height)
            if not text or right <= left or bottom <= top:
                continue
            separator = between if pieces else ""
            start = length + len(separator)
            if start + len(text) > max_chars:
                note = f"page {number}: text after {length:,} characters is left out (page_chars)"
                return PageText(number, "".join(pieces), tuple(blocks), note)
            length = start + len(text)
            pieces += separator, text
            blocks.append(TextBlock(left, top, right, bottom, start, length))
            between = "\n"
    return PageText(number, "".join(pieces), tuple(blocks))


def _cleaned(content: str) -> str:
    """Without outer and repeated white space, and without what no text file may hold."""
    return " ".join(_UNREADABLE.sub(" ", content).split())


def _share(place: float, length: float) -> float:
    return round(min(max(place / length, 0.0), 1.0), _SHARE_DIGITS) if length > 0 else 0.0
