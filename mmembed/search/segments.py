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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from mmembed.errors import ConfigError, InputError
from mmembed.inputs.media import printable_name
from mmembed.inputs.page_blocks import PageText
from mmembed.inputs.sizing import MediaBudget
from mmembed.search.passages import Passage, markdown_passages, passages
from mmembed.search.rows import Box, Kind, Row
from mmembed.search.scenes import find_scenes
from mmembed.types import MultimodalInput, Page, Part, Text, Video

if TYPE_CHECKING:
    from mmembed.inputs.sandbox import MediaDecoder

__all__ = ["TEXT_SUFFIXES", "Segment", "Segmentation", "Windows", "cut_file"]

Windows = Literal["fixed", "scenes"]
_MARKDOWN_SUFFIXES = frozenset({"md", "markdown"})
TEXT_SUFFIXES = frozenset({"txt", "text", "rst"}) | _MARKDOWN_SUFFIXES
_PROBE_BUDGET = MediaBudget(min_pixels=28 * 28, max_pixels=56 * 56)


@dataclass(frozen=True)
class Segmentation:
    """How files are cut.

    Args:
        passage_chars: longest passage of a text file, in characters.
        windows: a video is cut every `window_seconds` or where its scenes change.
        window_seconds: length of a clip of a long video, or of a long scene.
        max_clip_seconds: a video, or a scene, up to this length stays one clip.
        min_scene_seconds: changes that come sooner after another begin no scene.
        max_text_bytes: larger text files are refused.
        page_chars: of the text of a page, so many characters are kept for the search of words.
        max_pages_per_file: of a longer document the first pages are taken, with a warning.
        instruction: given to the model with every item; None leaves it to the model.
    """

    passage_chars: int = 1000
    windows: Windows = "fixed"
    window_seconds: float = 30.0
    max_clip_seconds: float = 60.0
    min_scene_seconds: float = 2.0
    max_text_bytes: int = 20_000_000
    page_chars: int = 20_000
    max_pages_per_file: int = 5000
    instruction: str | None = None

    def __post_init__(self) -> None:
        if self.windows not in get_args(Windows):
            raise ConfigError(f"windows is {self.windows!r}; it must be 'fixed' or 'scenes'")
        for name in ("passage_chars", "window_seconds", "max_pages_per_file"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Segmentation:
        """From its JSON form (`dataclasses.asdict`), as `Index.settings` keeps it."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(
                f"the index was cut with {unknown[0]!r}, which this version does not know; update "
                "mmembed"
            )
        return cls(**values)

    @property
    def name(self) -> str:
        """Eight hex digits; rows cut in another way are cut again."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Segment:
    """One item of a file: what the model reads, and the row that will say where it is."""

    item: MultimodalInput
    row: Row


def cut_file(
    path: Path,
    segmentation: Segmentation,
    decoder: MediaDecoder,
    notes: list[str] | None = None,
) -> list[Segment]:
    """The items of one file, at least one.

    Args:
        notes: takes what was left out, and why.

    Raises:
        InputError: the file cannot be opened, or nothing in it can be searched.
    """
    notes = [] if notes is None else notes
    if path.suffix[1:].lower() in TEXT_SUFFIXES:
        return _cut_text(path, segmentation)
    part = MultimodalInput.of(path).parts[0]
    if isinstance(part, Video):
        return _cut_video(path, segmentation, decoder, notes)
    if isinstance(part, Page):
        return _cut_pdf(path, segmentation, decoder, notes)
    return [_segment(path, "image", part, segmentation)]


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
    is_markdown = path.suffix[1:].lower() in _MARKDOWN_SUFFIXES
    found = (
        markdown_passages(text, segmentation.passage_chars)
        if is_markdown
        else [Passage(*ends) for ends in passages(text, segmentation.passage_chars)]
    )
    if not found:
        raise InputError("empty", "no text in it", part="text", source=printable_name(path))
    segments = []
    for start, end, context in found:
        shown = f"{context}\n\n{text[start:end]}" if context else text[start:end]
        place = {"start_char": start, "end_char": end, "text": shown}
        fragment = f"#char={start},{end}"
        segments.append(
            _segment(path, "text", Text(shown), segmentation, fragment=fragment, **place)
        )
    return segments


def _cut_video(
    path: Path, segmentation: Segmentation, decoder: MediaDecoder, notes: list[str]
) -> list[Segment]:
    # The last of two frames spread over the clip is its last frame.
    times = decoder.decode(Video(path, num_frames=2), _PROBE_BUDGET).timestamps
    duration = max(times, default=0.0)
    scenes = [(0.0, duration)]
    if segmentation.windows == "scenes":
        shortest = segmentation.min_scene_seconds
        scenes = find_scenes(path, duration, decoder, min_seconds=shortest, notes=notes)
    clips = [clip for scene in scenes for clip in _windows(*scene, segmentation)]
    if len(clips) == 1:
        place: dict[str, Any] = {
            "start_seconds": 0.0,
            "end_seconds": duration,
            "duration_seconds": duration,
        }
        return [_segment(path, "video", Video(path), segmentation, **place)]
    return [
        _segment(
            path,
            "video",
            # the last frame may lie a rounding error behind the duration
            Video(path, start=start, end=None if end == duration else end),
            segmentation,
            fragment=f"#t={start:g},{end:g}",
            start_seconds=start,
            end_seconds=end,
            duration_seconds=duration,
        )
        for start, end in clips
    ]


def _windows(start: float, end: float, segmentation: Segmentation) -> list[tuple[float, float]]:
    """A scene, or the clips of one that is too long."""
    if end - start <= segmentation.max_clip_seconds:
        return [(start, end)]
    window = segmentation.window_seconds
    # A remainder under half a window joins the one before it.
    count = max(1, math.floor((end - start) / window + 0.5))
    edges = [*(start + number * window for number in range(count)), end]
    return list(pairwise(edges))


def _cut_pdf(
    path: Path, segmentation: Segmentation, decoder: MediaDecoder, notes: list[str]
) -> list[Segment]:
    total = decoder.page_count(path)
    count = min(total, segmentation.max_pages_per_file)
    if count < total:
        notes.append(f"the first {count:,} of {total:,} pages are taken (max_pages_per_file)")
    try:
        pages = decoder.page_blocks(path, 1, count, max_chars=segmentation.page_chars)
    except InputError as error:
        # one page that hangs must not cost the others; without their words they can be seen
        notes.append(f"no text layer of any page: {error.detail}")
        pages = [PageText(number, "", ()) for number in range(1, count + 1)]
    notes.extend(page.warning for page in pages if page.warning)
    return [
        _segment(
            path,
            "pdf",
            Page(path, pages=str(page.page)),
            segmentation,
            fragment=f"#page={page.page}",
            page=page.page,
            text=page.text or None,
            boxes=tuple(Box(*block) for block in page.blocks),
        )
        for page in pages
    ]


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
