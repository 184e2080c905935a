"""How large a picture may be and which frames of a clip are read. Torch-free arithmetic.

First step of `inputs/`: media readers ask here for a target size before they decode anything, so
that video frames and PDF pages are produced at the size the model reads and a picture that can
never be used is refused from its header. The rules are those of qwen_vl_utils 0.0.14
(`vision_process.py`), which cannot be imported here because it imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmembed.errors import InputError

__all__ = [
    "MAX_ASPECT_RATIO",
    "MediaBudget",
    "check_aspect_ratio",
    "frame_count_for_fps",
    "frame_indices",
    "frame_times",
    "nearest_frames",
    "smart_resize",
]

MAX_ASPECT_RATIO = 200  # MAX_RATIO of qwen_vl_utils
FRAME_FACTOR = 2  # frames come in pairs: the temporal patch of Qwen2-VL
FPS_MIN_FRAMES = 4
FPS_MAX_FRAMES = 768


@dataclass(frozen=True)
class MediaBudget:
    """Bounds for one picture, frame or page, and the number of frames of a clip.

    Args:
        min_pixels, max_pixels: area of one picture after resizing.
        factor: both sides become multiples of this (patch size 14 x spatial merge 2 for Qwen2-VL).
        num_frames: frames of a clip whose part sets neither `fps` nor `num_frames`.
    """

    min_pixels: int
    max_pixels: int
    factor: int = 28
    num_frames: int = 8

    def resize(self, height: float, width: float) -> tuple[int, int]:
        """`smart_resize` with the bounds of this budget: (height, width)."""
        return smart_resize(
            height,
            width,
            factor=self.factor,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
        )


def check_aspect_ratio(height: float, width: float) -> None:
    """Raise `InputError` (`aspect_ratio`) when one side is more than 200 times the other."""
    short, long = sorted((height, width))
    if short <= 0 or long / short > MAX_ASPECT_RATIO:
        raise InputError(
            "aspect_ratio",
            f"{width:g} x {height:g} pixels; the longer side may be at most {MAX_ASPECT_RATIO} "
            "times the shorter one. Crop or pad it",
        )


def smart_resize(
    height: float, width: float, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """The (height, width) nearest to the given ones that the vision tower can read.

    Both are multiples of `factor`, the area lies in [min_pixels, max_pixels] and the aspect ratio
    is kept as closely as possible. Equal to qwen_vl_utils; where that returns a side of 0 (a thin
    strip under a small budget) one factor is used, as transformers does, and the area may then
    exceed `max_pixels`.

    Raises:
        InputError: `aspect_ratio` for sides that differ more than 200 times.
    """
    check_aspect_ratio(height, width)
    rows = max(factor, round(height / factor) * factor)
    columns = max(factor, round(width / factor) * factor)
    if rows * columns > max_pixels:
        beta = math.sqrt((height * width) / max_pixels)
        rows = max(factor, math.floor(height / beta / factor) * factor)
        columns = max(factor, math.floor(width / beta / factor) * factor)
    elif rows * columns < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * beta / factor) * factor
        columns = math.ceil(width * beta / factor) * factor
    return rows, columns


def frame_count_for_fps(
    fps: float, *, total_frames: int, video_fps: float, max_frames: int = FPS_MAX_FRAMES
) -> int:
    """How many frames `fps` frames a second are: `smart_nframes` of qwen_vl_utils.

    An even number in [4, `max_frames`], at most `total_frames`. Where that rule fails (fewer than
    two frames) all frames are used.
    """
    if total_frames < FRAME_FACTOR:
        return total_frames
    ceiling = min(max_frames, total_frames) // FRAME_FACTOR * FRAME_FACTOR
    wanted = min(max(total_frames / video_fps * fps, FPS_MIN_FRAMES), ceiling, total_frames)
    return max(FRAME_FACTOR, math.floor(wanted / FRAME_FACTOR) * FRAME_FACTOR)


def frame_indices(first: int, last: int, count: int) -> list[int]:
    """`count` indices evenly from `first` to `last`, both included.

    Equal to `torch.linspace(first, last, count).round()`: single precision, half to even.
    """
    if count <= 1:
        return [first] * count
    step = np.float32(last - first) / np.float32(count - 1)
    position = np.arange(count)
    ascending = np.float32(first) + step * position.astype(np.float32)
    descending = np.float32(last) - step * (count - 1 - position).astype(np.float32)
    values = np.where(position < count // 2, ascending, descending)
    return [int(value) for value in np.rint(values)]


def frame_times(first: float, last: float, count: int) -> list[float]:
    """`count` instants evenly from `first` to `last` seconds, both included; one is `first`."""
    return [float(time) for time in np.linspace(first, last, count)]


def nearest_frames(
    times: Sequence[float] | np.ndarray, targets: Sequence[float] | np.ndarray
) -> list[int]:
    """For each target the index of the frame nearest in time; `times` must ascend.

    Halfway between two frames the even index wins, so that a clip of constant frame rate gives
    the frames that rounding indices half to even (qwen_vl_utils) gives.
    """
    stamps = np.asarray(times, dtype=np.float64)
    right = np.searchsorted(stamps, targets).clip(0, len(stamps) - 1)
    left = (right - 1).clip(0)
    before = np.abs(np.asarray(targets) - stamps[left])
    after = np.abs(stamps[right] - np.asarray(targets))
    tied = np.isclose(before, after, rtol=0.0, atol=1e-6)
    chosen = np.where(before < after, left, right)
    even = np.where(left % 2 == 0, left, right)
    # an exact hit has left != right with before > 0 = after, so it is never a tie
    return [int(index) for index in np.where(tied & (left != right), even, chosen)]
