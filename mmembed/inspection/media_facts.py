"""Opens the media of rows in killable processes and keeps a few numbers of each, no pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmembed.errors import InputError
from mmembed.inputs.media import DecodedMedia, MediaPart, part_name, printable_name
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.inspection.content import PictureSignature, picture_signature
from mmembed.types import Image, Page, Url, Video

__all__ = ["MediaFacts", "MediaReader"]

_BUDGET = MediaBudget(min_pixels=28 * 28, max_pixels=448 * 448, num_frames=4)
_REMEMBERED = 1 << 16


@dataclass(frozen=True)
class MediaFacts:
    """Of one medium; what does not apply is empty.

    Attributes:
        size: (width, height) of a picture.
        signatures: of a picture, or of each page.
        num_frames: of a list of frames.
        seconds: of a clip, up to the last frame that was opened.
        num_pages: that the part shows.
        warnings: what was decoded with a loss.
    """

    size: tuple[int, int] | None = None
    signatures: tuple[PictureSignature, ...] = ()
    num_frames: int | None = None
    seconds: float | None = None
    num_pages: int | None = None
    warnings: tuple[str, ...] = ()


class MediaReader:
    """Facts of media; a file that many rows name is opened once, as long as it is remembered.

    Args:
        decoder: None only looks whether files are there.
    """

    def __init__(self, decoder: MediaDecoder | None) -> None:
        self._decoder = decoder
        self._known: OrderedDict[MediaPart, MediaFacts | InputError] = OrderedDict()

    def read(self, parts: Sequence[MediaPart]) -> list[MediaFacts | InputError]:
        """In order; nothing is raised for a medium that cannot be opened."""
        fresh: dict[int, int] = {}  # position -> position in `todo`
        todo: list[MediaPart] = []
        places: dict[MediaPart, int] = {}
        outcomes: list[MediaFacts | InputError | None] = [None] * len(parts)
        for position, part in enumerate(parts):
            named = isinstance(part.source, Path)
            if named and part in self._known:
                self._known.move_to_end(part)
                outcomes[position] = self._known[part]
            elif named and part in places:
                fresh[position] = places[part]
            else:
                fresh[position] = len(todo)
                if named:
                    places[part] = len(todo)
                todo.append(part)
        read = self._open(todo)
        for part, place in places.items():
            self._known[part] = read[place]
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return [
            read[fresh[position]] if outcome is None else outcome
            for position, outcome in enumerate(outcomes)
        ]

    def _open(self, parts: Sequence[MediaPart]) -> list[MediaFacts | InputError]:
        if self._decoder is None:
            return [_looked_at(part) for part in parts]
        takes = [partial(_facts, part) for part in parts]
        return self._decoder.decode_many(parts, [_BUDGET] * len(parts), takes)


def _looked_at(part: MediaPart) -> MediaFacts | InputError:
    sources = part.source if isinstance(part.source, tuple) else (part.source,)
    for source in sources:
        if isinstance(source, Url):
            return InputError("forbidden_url", "an address", part=part_name(part))
        if isinstance(source, Path) and not source.is_file():
            return InputError(
                "not_found", "no such file", part=part_name(part), source=printable_name(source)
            )
    return MediaFacts()


def _facts(part: MediaPart, media: DecodedMedia) -> MediaFacts:
    if isinstance(part, Image):
        height, width = media.frames[0].shape[:2]
        signature = picture_signature(media.frames[0])
        return MediaFacts((width, height), (signature,), warnings=media.warnings)
    if isinstance(part, Page):
        signatures = tuple(map(picture_signature, media.frames))
        return MediaFacts(
            signatures=signatures, num_pages=len(media.frames), warnings=media.warnings
        )
    assert isinstance(part, Video)
    if isinstance(part.source, tuple):
        return MediaFacts(num_frames=len(part.source), warnings=media.warnings)
    return MediaFacts(seconds=max(media.timestamps, default=0.0), warnings=media.warnings)
