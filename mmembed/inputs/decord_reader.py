"""The other video reader: decord with the frame choice of qwen_vl_utils.

For parity with published numbers of Qwen and VLM2Vec, one setting away
(`MediaPolicy(video_reader="decord")`). Only MP4/MOV and WebM/MKV: decord 0.6.0 returns wrong
frames for MPEG-TS and for AVI with B-frames without an error.
"""

from __future__ import annotations

import math

import numpy as np

from mmembed.errors import InputError, MissingDependencyError
from mmembed.inputs.media import DecodedMedia, MediaFile, MediaPolicy
from mmembed.inputs.sampling import check_frames_asked
from mmembed.inputs.sizing import (
    FRAME_FACTOR,
    MediaBudget,
    frame_count_for_fps,
    frame_indices,
)
from mmembed.types import Video

__all__ = ["decode_with_decord"]


def decode_with_decord(
    media: MediaFile, part: Video, budget: MediaBudget, policy: MediaPolicy
) -> DecodedMedia:
    """Frames by index, as `fetch_video` of qwen_vl_utils takes them, resized to the budget.

    Raises:
        InputError: `invalid_type`, `unsupported_format`, `corrupt`, `no_frames`,
            `too_many_frames`.
    """
    if part.sampling != "uniform":
        raise media.error(
            "invalid_type",
            f"the decord reader has no sampling={part.sampling!r}; use the pyav reader",
        )
    if media.head[4:8] != b"ftyp" and not media.head.startswith(b"\x1a\x45\xdf\xa3"):
        raise media.error(
            "unsupported_format",
            "the decord reader takes MP4, MOV, MKV and WebM only; the pyav reader takes more",
        )
    try:
        import decord
    except ImportError:
        raise MissingDependencyError("decord", "video") from None
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(media.file, num_threads=1)
        total, rate = len(reader), float(reader.get_avg_fps())
    except Exception:
        raise media.error("corrupt", "decord cannot read this clip; try the pyav reader") from None
    if total < 1 or not rate > 0:
        raise media.error("no_frames", "the clip has no frames")
    first, last = _frame_range(part, total, rate)
    available = last - first + 1
    if part.fps is not None:
        count = frame_count_for_fps(
            part.fps, total_frames=available, video_fps=rate, max_frames=policy.max_frames
        )
        check_frames_asked(part.fps, count, policy)
    else:
        wanted = budget.num_frames if part.num_frames is None else part.num_frames
        count = min(available, max(1, round(wanted / FRAME_FACTOR) * FRAME_FACTOR))
    if count > policy.max_frames:
        raise media.error(
            "too_many_frames",
            f"{count:,} frames; the media policy allows {policy.max_frames:,} (max_frames)",
        )
    indices = frame_indices(first, last, count)
    frames = []
    for index in indices:
        try:
            frame = reader[index].asnumpy()
        except Exception:
            raise media.error("corrupt", f"decord cannot decode frame {index}") from None
        frames.append(_resized(frame, budget))
    return DecodedMedia(
        frames=tuple(frames), timestamps=tuple(round(index / rate, 6) for index in indices)
    )


def _frame_range(part: Video, total: int, rate: float) -> tuple[int, int]:
    """First and last index of the window: `calculate_video_frame_range` of qwen_vl_utils."""
    duration = total / rate
    first, last = 0, total - 1
    if part.start is not None:
        first = math.ceil(min(part.start, duration) * rate)
    if part.end is not None:
        last = min(last, math.floor(min(part.end, duration) * rate))
    if first > last:
        raise InputError(
            "no_frames",
            f"no frame of the clip ({duration:.2f} s) lies between start and end",
            part="video",
        )
    return first, last


def _resized(frame: np.ndarray, budget: MediaBudget) -> np.ndarray:
    from PIL import Image

    rows, columns = budget.resize(frame.shape[0], frame.shape[1])
    picture = Image.fromarray(frame).resize((columns, rows), Image.Resampling.BICUBIC)
    return np.array(picture)
