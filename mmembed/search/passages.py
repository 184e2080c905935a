"""Cuts text into passages: plain text at blank lines, Markdown also at its headings.

Called by `segments`. A passage is a range of the text's characters; Markdown passages also know
the headings above them, because "Installation" says little without the name of what is installed.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["Passage", "markdown_passages", "passages"]

_SEPARATORS = ("\n\n", "\r\n\r\n", "\n", ". ", "\u3002", " ")
_MAX_CONTEXT_CHARS = 200
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t](.*))?")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_NOT_A_PARAGRAPH = re.compile(r" {0,3}(?:[-*+>|]|\d+[.)])|    |\t|\s*$")

Range = tuple[int, int]


class Passage(NamedTuple):
    """Characters `start` to `end` of a text; `context`: the headings they stand under."""

    start: int
    end: int
    context: str = ""


def passages(
    text: str,
    max_chars: int,
    *,
    start: int = 0,
    stop: int | None = None,
    blocks: Sequence[Range] = (),
) -> list[Range]:
    """(start, end) of consecutive passages without their surrounding white space.

    Each is as long as `max_chars` allows and ends, where its second half has one, at a blank line,
    else at a line, a sentence or a word.

    Args:
        start, stop: the part of the text that is cut.
        blocks: ascending ranges that stay whole where they fit into a passage.
    """
    found = []
    stop = len(text) if stop is None else stop
    while start < stop:
        if text[start].isspace():
            start += 1
            continue
        end = min(start + max_chars, stop)
        if end < stop:
            places = (text.rfind(mark, start + max_chars // 2, end) for mark in _SEPARATORS)
            end = next(
                (
                    place + len(mark)
                    for place, mark in zip(places, _SEPARATORS, strict=True)
                    if place >= 0
                ),
                end,
            )
            end = _beside_block(text, start, end, max_chars, blocks)
        found.append((start, start + len(text[start:end].rstrip())))
        start = end
    return found


def markdown_passages(text: str, max_chars: int) -> list[Passage]:
    """Passages that begin at headings, in order.

    A heading without text of its own goes to the section below it. Fenced code is not torn where
    it fits into a passage.
    """
    headings, blocks = _outline(text)
    found: list[Passage] = []
    path: list[tuple[int, str]] = []  # of the headings above
    begin = 0  # of the section; may be a heading above it
    outer: list[tuple[int, str]] = []  # the path where the section begins
    for number in range(-1, len(headings)):
        stop = headings[number + 1].start if number + 1 < len(headings) else len(text)
        body = 0
        if number >= 0:
            heading = headings[number]
            if begin == heading.start:
                outer = [above for above in path if above[0] < heading.level]
            path = [above for above in path if above[0] < heading.level]
            path.append((heading.level, heading.title))
            body = heading.end
            is_empty = not text[body:stop].strip()
            leads_on = number + 1 < len(headings) and headings[number + 1].level > heading.level
            if is_empty and leads_on and stop - begin < max_chars // 2:
                continue  # `begin` stays
        for start, end in passages(text, max_chars, start=begin, stop=stop, blocks=blocks):
            # a passage that begins with its heading needs only those above
            found.append(Passage(start, end, _context(outer if start < body else path)))
        begin = stop
    return found


class _Heading(NamedTuple):
    start: int
    end: int
    level: int
    title: str


def _outline(text: str) -> tuple[list[_Heading], list[Range]]:
    """The headings of a Markdown text, and the ranges of its fenced code."""
    headings: list[_Heading] = []
    blocks: list[Range] = []
    fence: tuple[int, str] | None = None
    previous: tuple[int, str] | None = None  # a line that an underline would make a heading
    in_paragraph = False
    for start, end, line in _lines(text):
        mark = _FENCE.fullmatch(line)
        if fence is not None:
            if mark and mark[1].startswith(fence[1]) and not mark[2].strip():
                blocks.append((fence[0], start + len(line)))
                fence = None
            continue
        underline = _UNDERLINE.fullmatch(line)
        heading = _HEADING.fullmatch(line)
        if mark and not (mark[1][0] == "`" and "`" in mark[2]):
            fence, previous = (start, mark[1]), None
        elif heading:
            headings.append(_Heading(start, end, len(heading[1]), _title(heading[2] or "")))
            previous = None
        elif underline and previous is not None:
            level = 1 if underline[1][0] == "=" else 2
            headings.append(_Heading(previous[0], end, level, previous[1].strip()))
            previous = None
        else:
            begins, in_paragraph = not in_paragraph, not _NOT_A_PARAGRAPH.match(line)
            previous = (start, line) if begins and in_paragraph else None
            continue
        in_paragraph = False
    if fence is not None:
        blocks.append((fence[0], len(text)))
    return headings, blocks


def _title(text: str) -> str:
    """Without the closing `##` of a heading."""
    text = text.strip()
    open_end = text.rstrip("#")
    return open_end.strip() if not open_end or open_end[-1] in " \t" else text


def _lines(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, line without its end) of each line behind the front matter."""
    place = 0
    matter = re.match(r"---[ \t]*\r?\n.*?^(?:---|\.\.\.)[ \t]*$", text, re.DOTALL | re.MULTILINE)
    skipped = matter.end() if matter else 0
    for line in text.splitlines(keepends=True):
        start, place = place, place + len(line)
        if start >= skipped:
            yield start, place, line.rstrip("\r\n")


def _beside_block(text: str, start: int, end: int, max_chars: int, blocks: Sequence[Range]) -> int:
    """The end of a passage, moved behind or before the block in which it lies."""
    number = bisect_right(blocks, (end, -1)) - 1
    if number < 0 or not blocks[number][0] < end < blocks[number][1]:
        return end
    first, last = blocks[number]
    if last - start <= max_chars:
        return last
    if last - first <= max_chars and text[start:first].strip():
        return first
    return end


def _context(path: Sequence[tuple[int, str]]) -> str:
    text = " > ".join(title for _, title in path if title)
    return text if len(text) <= _MAX_CONTEXT_CHARS else text[: _MAX_CONTEXT_CHARS - 3] + "..."
