"""Finds where the scenes of a video change, from small frames taken a few times a second.

Called by `segments`. Two neighbouring frames differ by how many pixels changed their colour class
(histogram) and by how much pixels changed where they are (mean absolute difference); the score is
the mean of both, in [0, 1]. A cut is a score that stands out: at least `MIN_SCORE`, and at least
`RATIO` times the mean of the scores around it, so that a shaky hand or a fade does not count as
many cuts. The idea is that of PySceneDetect's AdaptiveDetector.

A video is read chunk by chunk through the decode processes, each chunk within their time limit,
and not beyond `MAX_SCAN_SECONDS`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmembed.errors import InputError
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import Video

if TYPE_CHECKING:
    from mmembed.inputs.sandbox import MediaDecoder
    from mmembed.types import MediaSource

__all__ = ["MAX_SCAN_SECONDS", "choose_cuts", "find_scenes", "frame_changes"]

MAX_SCAN_SECONDS = 3 * 3600.0  # what lies behind has no scenes; a film is shorter
MIN_SCORE = 0.12
RATIO = 3.0
NEIGHBOURS = 4  # scores on either side
_FPS = 4.0
_CHUNK_SECONDS = 60.0
_BUDGET = MediaBudget(min_pixels=28 * 28, max_pixels=56 * 56)
_LEVELS = 4  # of each colour channel; 64 classes

Scene = tuple[float, float]


def find_scenes(
    source: MediaSource,
    duration: float,
    decoder: MediaDecoder,
    *,
    min_seconds: float,
    notes: list[str],
) -> list[Scene]:
    """(first, last) second of each scene, from 0 to `duration`, in order; at least one.

    A scene ends at the last frame that was seen of it and the next begins at its first, at most
    1/4 second and one frame later: no scene shows a frame of another.

    Args:
        duration: time of the last frame.
        min_seconds: of a scene; changes that come sooner are none.
        notes: takes what was not looked at, and why.
    """
    times: list[float] = []
    scores: list[float] = []
    last: np.ndarray | None = None
    end = min(duration, MAX_SCAN_SECONDS)
    if end < duration:
        notes.append(f"scenes are looked for in the first {end / 3600:g} hours only")
    for start in np.arange(0.0, end, _CHUNK_SECONDS).tolist():
        clip = Video(source, start=start, end=min(start + _CHUNK_SECONDS, end), fps=_FPS)
        try:
            media = decoder.decode(clip, _BUDGET)
        except InputError as error:
            notes.append(f"no scenes looked for from {start:g} s on: {error.detail}")
            last = None
            continue
        for frame, time in zip(media.frames, media.timestamps, strict=True):
            if times and time <= times[-1]:  # the last frame of the chunk before
                continue
            times.append(time)
            is_alike = last is not None and last.shape == frame.shape
            scores.append(frame_changes(last, frame) if is_alike else 0.0)  # type: ignore[arg-type]
            last = frame
    cuts = choose_cuts(times, scores, min_seconds=min_seconds, end=duration)
    edges = [0.0, *(time for cut in cuts for time in (times[cut - 1], times[cut])), duration]
    return list(zip(edges[::2], edges[1::2], strict=True))


def frame_changes(one: np.ndarray, other: np.ndarray) -> float:
    """How different two frames of one size are, in [0, 1]."""
    moved = np.abs(_colours(one) - _colours(other)).sum() / 2
    difference = np.abs(one.astype(np.int16) - other).mean() / 255
    return float((moved + difference) / 2)


def _colours(frame: np.ndarray) -> np.ndarray:
    """Shares of the colour classes. A pixel between two levels counts for both, or a fade would
    seem to jump where it comes from one to the next."""
    place = frame.reshape(-1, 3).T * np.float32((_LEVELS - 1) / 255)  # (3, N)
    low = np.minimum(place.astype(np.int64), _LEVELS - 2)
    red, green, blue = ((1 - high, high) for high in place - low)
    steps = np.array([_LEVELS * _LEVELS, _LEVELS, 1])
    shares = np.zeros(_LEVELS**3)
    for corner in itertools.product((0, 1), repeat=3):
        weights = red[corner[0]] * green[corner[1]] * blue[corner[2]]
        shares += np.bincount(steps @ low + steps @ corner, weights, minlength=_LEVELS**3)
    return shares / place.shape[1]


def choose_cuts(
    times: Sequence[float], scores: Sequence[float], *, min_seconds: float, end: float
) -> list[int]:
    """The frames with which a scene begins, ascending.

    Args:
        scores: of each frame, how different it is from the one before.
    """
    values = np.asarray(scores, dtype=np.float64)
    found: list[int] = []
    begin = 0.0
    for place in np.flatnonzero(values >= MIN_SCORE).tolist():
        low, high = max(0, place - NEIGHBOURS), place + NEIGHBOURS + 1
        around = np.delete(values[low:high], place - low)
        usual = float(around.mean()) if len(around) else 0.0
        stands_out = values[place] >= RATIO * usual or math.isclose(usual, 0.0)
        time = times[place]
        if place and stands_out and time - begin >= min_seconds and end - time >= min_seconds:
            found.append(place)
            begin = time
    return found
