"""Which frames of a clip or of a list of frames are taken: `fps`, `num_frames`, `start`, `end`.

Used by the video readers, which know the times of all frames, and by the sandbox for lists of
frames. The counting rules are those of `sizing`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mmembed.errors import InputError
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.sizing import (
    MediaBudget,
    frame_count_for_fps,
    frame_indices,
    frame_times,
    nearest_frames,
)
from mmembed.types import Video

__all__ = [
    "FRAME_LIST_FPS",
    "check_frames_asked",
    "check_sampling",
    "choose_frames",
    "choose_key_frames",
    "frame_count",
    "select_from_list",
]

FRAME_LIST_FPS = 2.0  # the rate that qwen_vl_utils assumes for a list of frames (sample_fps)


def check_sampling(part: Video) -> None:
    """Refuse options that contradict each other or mean nothing (`invalid_type`)."""
    problem = None
    if part.sampling not in {"uniform", "keyframes"}:
        problem = f"sampling is {part.sampling!r}; it must be 'uniform' or 'keyframes'"
    elif part.fps is not None and part.num_frames is not None:
        problem = "give fps or num_frames, not both"
    elif part.fps is not None and not (math.isfinite(part.fps) and part.fps > 0):
        problem = f"fps is {part.fps}; it must be above 0"
    elif part.num_frames is not None and part.num_frames < 1:
        problem = f"num_frames is {part.num_frames}; it must be at least 1"
    for name, value in (("start", part.start), ("end", part.end)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            problem = f"{name} is {value}; it must be a number of seconds from 0 on"
    if problem is None and part.end is not None and part.end < (part.start or 0.0):
        problem = f"end ({part.end}) lies before start ({part.start})"
    if problem is not None:
        raise InputError("invalid_type", problem, part="video")


def check_frames_asked(fps: float, count: int, policy: MediaPolicy) -> None:
    """Refuse a rate that asks for more frames than a stranger may have."""
    most = policy.max_frames_asked
    if most is not None and count > most:
        raise InputError(
            "too_many_frames",
            f"fps {fps:g} takes {count:,} frames of this clip; allowed: {most:,}. Lower fps, give "
            "num_frames, or cut the clip with start and end",
            part="video",
        )


def frame_count(
    part: Video,
    *,
    available: int,
    video_fps: float,
    default: int,
    policy: MediaPolicy,
    notes: list[str],
) -> int:
    """How many of `available` frames are taken; a capped `fps` is told in `notes`."""
    if part.fps is not None:
        count = frame_count_for_fps(
            part.fps, total_frames=available, video_fps=video_fps, max_frames=policy.max_frames
        )
        check_frames_asked(part.fps, count, policy)
        if available / video_fps * part.fps > policy.max_frames:
            notes.append(f"{part.fps:g} frames a second would exceed max_frames; took {count}")
        return count
    wanted = part.num_frames if part.num_frames is not None else default
    count = min(available, wanted)
    if count > policy.max_frames:
        raise InputError(
            "too_many_frames",
            f"{count:,} frames; the media policy allows {policy.max_frames:,} (max_frames). "
            "Lower num_frames",
            part="video",
        )
    return count


def select_from_list(part: Video, total: int, policy: MediaPolicy) -> list[int]:
    """Indices of a list of frames. Without options all are used: the caller chose them.

    A list has no clock; as in qwen_vl_utils it counts as two frames a second, and that is what
    `fps`, `start` and `end` refer to.
    """
    check_sampling(part)
    first = math.ceil((part.start or 0.0) * FRAME_LIST_FPS)
    last = total - 1
    if part.end is not None:
        last = min(last, math.floor(part.end * FRAME_LIST_FPS))
    available = last - first + 1
    if available < 1:
        raise InputError(
            "no_frames",
            f"none of the {total} frames in the list lies between start and end "
            f"(a list counts as {FRAME_LIST_FPS:g} frames a second)",
            part="video",
        )
    count = frame_count(
        part,
        available=available,
        video_fps=FRAME_LIST_FPS,
        default=available,
        policy=policy,
        notes=[],
    )
    return frame_indices(first, last, count)


def choose_frames(
    times: Sequence[float] | np.ndarray,
    part: Video,
    budget: MediaBudget,
    policy: MediaPolicy,
    notes: list[str],
) -> list[int]:
    """Indices of the frames to take, from the times of all frames (ascending, first one 0)."""
    first, last = _window(times, part)
    available = last - first + 1
    span = times[last] - times[first]
    rate = (available - 1) / span if span > 0 else 1.0
    count = frame_count(
        part,
        available=available,
        video_fps=rate,
        default=budget.num_frames,
        policy=policy,
        notes=notes,
    )
    if count == available:
        return list(range(first, last + 1))
    # of all frames, so that ties fall on the same frame whatever the window
    return nearest_frames(times, frame_times(times[first], times[last], count))


def choose_key_frames(
    times: Sequence[float] | np.ndarray,
    keys: np.ndarray,
    part: Video,
    budget: MediaBudget,
    policy: MediaPolicy,
    notes: list[str],
) -> list[int]:
    """Which of the key frames to take: the nearest to each frame of `choose_frames`, each once.

    Of those inside the window; when there is none, the last before it. Fewer frames than asked
    for are told in `notes`.

    Args:
        keys: int (n,), the index in `times` of each key frame.

    Returns:
        Indices into `keys`.
    """
    wanted = choose_frames(times, part, budget, policy, notes)
    first, last = _window(times, part)
    order = np.argsort(keys, kind="stable")
    inside = order[(keys[order] >= first) & (keys[order] <= last)]
    if not len(inside):
        before = order[keys[order] < first]
        inside = before[-1:] if len(before) else order[:1]
    moments = np.asarray(times)
    nearest = nearest_frames(moments[keys[inside]], moments[wanted])
    chosen = inside[np.unique(nearest)].tolist()
    if len(chosen) < len(wanted):
        notes.append(f"took {len(chosen)} key frames for {len(wanted)} frames")
    return chosen


def _window(times: Sequence[float] | np.ndarray, part: Video) -> tuple[int, int]:
    """Index of the first and last frame between `start` and `end`."""
    start = part.start or 0.0
    first = int(np.searchsorted(times, start - 1e-6))
    last = len(times) - 1
    if part.end is not None:
        last = int(np.searchsorted(times, part.end + 1e-6, side="right")) - 1
    if first > last:
        if start > times[-1] + 1.0:
            raise InputError(
                "no_frames",
                f"start is {start:g} s but the last frame is at {times[-1]:.3f} s",
                part="video",
            )
        # a window between two frames shows the earlier one
        first = last = max(0, int(np.searchsorted(times, start, side="right")) - 1)
    return first, last
