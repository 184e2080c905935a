"""Cuts one file into the items that are searched: a picture, clips, pages or passages of text.

    walk -> cut_file -> content_key -> encode

What a file is, its content decides (as in `MultimodalInput.of`); its suffix decides whether it is
looked at. Page counts, page texts and clip lengths come from the media decoder, so a hostile file
can only kill a decode process.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmembed.errors import InputError
from mmembed.inputs.media import printable_name
from mmembed.inputs.sizing import MediaBudget
from mmembed.search.rows import Kind, Row
from mmembed.types import MultimodalInput, Page, Part, Text, Video

if TYPE_CHECKING:
    from mmembed.inputs.sandbox import MediaDecoder

__all__ = ["TEXT_SUFFIXES", "Segment", "Segmentation", "cut_file", "passages"]

TEXT_SUFFIXES = frozenset({"txt", "text", "md", "markdown", "rst"})
_PROBE_BUDGET = MediaBudget(min_pixels=28 * 28, max_pixels=56 * 56)
_SEPARATORS = ("\n\n", "\r\n\r\n", "\n", ". ", "\u3002", " ")
_PREVIEW_CHARS = 300


@dataclass(frozen=True)
class Segmentation:
    """How files are cut.

    Args:
        passage_chars: longest passage of a text file, in characters.
        window_seconds: length of a clip of a long video.
        max_clip_seconds: a video up to this length stays one clip.
        max_text_bytes: larger text files are refused.
        instruction: given to the model with every item; None leaves it to the model.
    """

    passage_chars: int = 1000
    window_seconds: float = 30.0
    max_clip_seconds: float = 60.0
    max_text_bytes: int = 20_000_000
    instruction: str | None = None

    @property
    def name(self) -> str:
        """Eight hex digits; rows cut in another way are cut again."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Segment:
    """One item of a file: what the model reads, and the row that will say where it is."""

    item: MultimodalInput
    row: Row


def cut_file(path: Path, segmentation: Segmentation, decoder: MediaDecoder) -> list[Segment]:
    """The items of one file, at least one.

    Raises:
        InputError: the file cannot be opened, or nothing in it can be searched.
    """
    if path.suffix[1:].lower() in TEXT_SUFFIXES:
        return _cut_text(path, segmentation)
    part = MultimodalInput.of(path).parts[0]
    if isinstance(part, Video):
        return _cut_video(path, segmentation, decoder)
    if isinstance(part, Page):
        return _cut_pdf(path, segmentation, decoder)
    return [_segment(path, "image", part, segmentation)]


def passages(text: str, max_chars: int) -> list[tuple[int, int]]:
    """(start, end) of consecutive passages without their surrounding white space.

    Each is as long as `max_chars` allows and ends, where its second half has one, at a blank line,
    else at a line, a sentence or a word.
    """
    found = []
    start, length = 0, len(text)
    while start < length:
        if text[start].isspace():
            start += 1
            continue
        end = min(start + max_chars, length)
        if end < length:
            places = (text.rfind(mark, start + max_chars // 2, end) for mark in _SEPARATORS)
            end = next(
                (
                    place + len(mark)
                    for place, mark in zip(places, _SEPARATORS, strict=True)
                    if place >= 0
                ),
                end,
            )
        found.append((start, start + len(text[start:end].rstrip())))
        start = end
    return found


def _cut_text(path: Path, segmentation: Segmentation) -> list[Segment]:
    size = path.stat().st_size
    if size > segmentation.max_text_bytes:
        raise InputError(
            "too_large",
            f"{size:,} bytes of text; at most {segmentation.max_text_bytes:,} (max_text_bytes)",
            part="text",
            source=printable_name(path),
        )
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            "invalid_text",
            f"byte {error.start:,} is not {encoding.removesuffix('-sig')}; save the file as UTF-8",
            part="text",
            source=printable_name(path),
        ) from None
    segments = [
        _segment(
            path,
            "text",
            Text(text[start:end]),
            segmentation,
            fragment=f"#char={start},{end}",
            start_char=start,
            end_char=end,
            text=text[start:end],
        )
        for start, end in passages(text, segmentation.passage_chars)
    ]
    if not segments:
        raise InputError("empty", "no text in it", part="text", source=printable_name(path))
    return segments


def _cut_video(path: Path, segmentation: Segmentation, decoder: MediaDecoder) -> list[Segment]:
    # The last of two frames spread over the clip is its last frame.
    times = decoder.decode(Video(path, num_frames=2), _PROBE_BUDGET).timestamps
    duration = max(times, default=0.0)
    if duration <= segmentation.max_clip_seconds:
        whole = Video(path)
        return [
            _segment(path, "video", whole, segmentation, start_seconds=0.0, end_seconds=duration)
        ]
    window = segmentation.window_seconds
    # A remainder under half a window joins the one before it.
    count = max(1, math.floor(duration / window + 0.5))
    segments = []
    for number in range(count):
        is_last = number == count - 1
        start, end = number * window, duration if is_last else (number + 1) * window
        segments.append(
            _segment(
                path,
                "video",
                Video(path, start=start, end=None if is_last else end),
                segmentation,
                fragment=f"#t={start:g},{end:g}",
                start_seconds=start,
                end_seconds=end,
            )
        )
    return segments


def _cut_pdf(path: Path, segmentation: Segmentation, decoder: MediaDecoder) -> list[Segment]:
    segments = []
    for page in range(1, decoder.page_count(path) + 1):
        text = " ".join(decoder.page_text(path, page).split())[:_PREVIEW_CHARS]
        segments.append(
            _segment(
                path,
                "pdf",
                Page(path, pages=str(page)),
                segmentation,
                fragment=f"#page={page}",
                page=page,
                text=text or None,
            )
        )
    return segments


def _segment(
    path: Path,
    kind: Kind,
    part: Part,
    segmentation: Segmentation,
    *,
    fragment: str = "",
    **place: Any,
) -> Segment:
    """The fragment, in the manner of media fragments in a URL, tells the items of a file apart."""
    return Segment(
        MultimodalInput((part,), segmentation.instruction),
        Row(id=f"{path}{fragment}", path=str(path), kind=kind, cut=segmentation.name, **place),
    )
