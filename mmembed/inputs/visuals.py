"""Media parts -> patches of what a prompt shows: decode, resize and cut, each distinct part once.

Between `sandbox.MediaDecoder`, which decides which parts are worked on at the same time, and the
processor. A part that several items of a call hold (many questions about one clip) is opened once,
and all of them share its arrays.
"""

from __future__ import annotations

import uuid
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmembed.errors import InputError
from mmembed.inputs.media import DecodedMedia, MediaPart, part_name
from mmembed.inputs.pictures import VisionGeometry, on_grid, patchify
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import Image, Url, Video

if TYPE_CHECKING:
    from mmembed.inputs.processor import ClipFormat, InputConfig

__all__ = ["OpenedPart", "ShownPart", "Visual", "VisualReader", "part_key"]


@dataclass(frozen=True)
class Visual:
    """What one placeholder stands for: an image, a page, a frame, or a clip or a piece of it.

    Args:
        patches: (P, patch_dim) uint8.
        grid: patches (t, h, w).
        num_tokens: of the language model.
        time: seconds, written in front of it; None: nothing is.
        key: equal only for equal pictures, also in other processes.
    """

    medium: Literal["image", "video"]
    patches: np.ndarray
    grid: tuple[int, int, int]
    num_tokens: int
    time: float | None
    key: Hashable


@dataclass(frozen=True)
class ShownPart:
    """What the model sees of one part. Sizes are (width, height) in pixels.

    Args:
        source_size: of the picture, or of the first of a list of frames, as it was given. None:
            what decodes the part scaled it on the way (clips, pages, `scaled_jpeg`).
        sizes: of each picture, frame or page after resizing.
        times: seconds of the frames; pages: numbers of the pages.
    """

    kind: Literal["image", "video", "pdf"]
    num_tokens: int
    source_size: tuple[int, int] | None
    sizes: tuple[tuple[int, int], ...]
    times: tuple[float, ...]
    pages: tuple[int, ...]


@dataclass(frozen=True)
class OpenedPart:
    """Of one part: its visuals in order, and what was decoded with a loss."""

    visuals: tuple[Visual, ...]
    warnings: tuple[str, ...]
    shown: ShownPart


class VisualReader:
    """Opens media parts for one model."""

    def __init__(
        self, decoder: MediaDecoder, config: InputConfig, clip_format: ClipFormat | None
    ) -> None:
        self._decoder = decoder
        self._config = config
        self._clip_format = clip_format
        self._budgets: dict[tuple[type, int | None, int | None], MediaBudget] = {}

    def read(self, parts: Iterable[MediaPart]) -> dict[int, OpenedPart | InputError]:
        """What each part shows, by the `id` of the part; equal parts give the same object."""
        places: dict[Hashable, int] = {}
        place_of: dict[int, int] = {}
        outcomes: list[Any] = []
        usable: list[int] = []
        distinct: list[MediaPart] = []
        budgets: list[MediaBudget] = []
        for part in parts:
            key = part_key(part)
            place = places.get(key)
            if place is None:
                place = places[key] = len(outcomes)
                try:
                    budgets.append(self.budget(part))
                except InputError as error:
                    outcomes.append(error)
                else:
                    outcomes.append(None)
                    distinct.append(part)
                    usable.append(place)
            place_of[id(part)] = place
        call = uuid.uuid4().hex
        takes = [
            partial(self._take, part, budget, (call, place))
            for part, budget, place in zip(distinct, budgets, usable, strict=True)
        ]
        decoded = self._decoder.decode_many(distinct, budgets, takes) if distinct else []
        for place, outcome in zip(usable, decoded, strict=True):
            outcomes[place] = outcome
        return {part: outcomes[place] for part, place in place_of.items()}

    def _take(
        self, part: MediaPart, budget: MediaBudget, key: tuple[str, int], decoded: DecodedMedia
    ) -> OpenedPart:
        geometry = self._config.geometry
        assert geometry is not None, "`budget` refuses the part"
        as_clip = self._is_clip(part)
        frames = on_grid(
            decoded.frames, budget, twice=self._config.resize_passes == 2, together=as_clip
        )
        visuals = []
        for number, (group, time) in enumerate(
            self._groups(frames, decoded.timestamps, geometry) if as_clip else _singly(frames)
        ):
            patches, grid = patchify(group, geometry)
            visuals.append(
                Visual(
                    "video" if as_clip else "image",
                    patches,
                    grid,
                    len(patches) // geometry.merge_size**2,
                    time,
                    (*key, number),
                )
            )
        keeps_size = (
            not self._decoder.policy.scaled_jpeg
            if isinstance(part, Image)
            else isinstance(part.source, tuple)
        )
        shown = ShownPart(
            part_name(part),
            sum(visual.num_tokens for visual in visuals),
            _size(decoded.frames[0]) if keeps_size else None,
            tuple(map(_size, frames)),
            decoded.timestamps,
            decoded.pages,
        )
        return OpenedPart(tuple(visuals), decoded.warnings, shown)

    def _groups(
        self, frames: list[np.ndarray], times: Sequence[float], geometry: VisionGeometry
    ) -> list[tuple[list[np.ndarray], float | None]]:
        """Frames of a clip, grouped into what one placeholder stands for, each with its time."""
        if self._clip_format == "grid":
            return [(frames, None)]
        depth = geometry.temporal_patch_size
        groups: list[tuple[list[np.ndarray], float | None]] = []
        for begin in range(0, len(frames), depth):
            end = min(begin + depth, len(frames))
            groups.append((frames[begin:end], (times[begin] + times[end - 1]) / 2))
        return groups

    def _is_clip(self, part: MediaPart) -> bool:
        return isinstance(part, Video) and self._config.prompt.video_as == "video"

    def budget(self, part: MediaPart) -> MediaBudget:
        """The size of this part's pictures, after refusing what the model cannot take."""
        kind = (type(part), part.max_tokens, getattr(part, "min_tokens", None))
        if kind not in self._budgets:
            self._budgets[kind] = self._new_budget(part)
        return self._budgets[kind]

    def _new_budget(self, part: MediaPart) -> MediaBudget:
        config, geometry = self._config, self._config.geometry
        if geometry is None:
            raise InputError(
                "unsupported_format",
                "this model takes text only; give text, or load a model with a vision tower",
                part=part_name(part),
            )
        if self._is_clip(part) and self._clip_format is None:
            raise InputError(
                "unsupported_format",
                "mmembed gives this model clips as single frames only; set the prompt's video_as "
                "to 'images'",
                part=part_name(part),
            )
        default = (
            config.image_tokens
            if isinstance(part, Image)
            else config.frame_tokens
            if isinstance(part, Video)
            else config.page_tokens
        )
        most = part.max_tokens or default.max
        least = getattr(part, "min_tokens", None) or min(default.min, most)
        if least > most:
            raise InputError(
                "invalid_type",
                f"min_tokens {least} is greater than max_tokens {most}",
                part="image",
            )
        area = geometry.factor**2
        return MediaBudget(
            min_pixels=least * area,
            max_pixels=most * area,
            factor=geometry.factor,
            num_frames=config.num_frames,
        )


def _size(frame: np.ndarray) -> tuple[int, int]:
    return frame.shape[1], frame.shape[0]


def _singly(frames: list[np.ndarray]) -> list[tuple[list[np.ndarray], float | None]]:
    return [([frame], None) for frame in frames]


def part_key(part: MediaPart) -> Hashable:
    """Equal for parts that show the same within one call; bytes and pictures are themselves."""
    source = part.source
    named = tuple(map(_name, source)) if isinstance(source, tuple) else _name(source)
    if isinstance(part, Image):
        return Image, named, part.min_tokens, part.max_tokens
    options = tuple(getattr(part, field.name) for field in fields(part) if field.name != "source")
    return type(part), named, options


def _name(source: Any) -> Hashable:
    return source if isinstance(source, Url | Path) else id(source)
