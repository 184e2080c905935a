"""Bring a decoded video frame to the form that the model reads: upright RGB at the final size.

Used by `pyav_reader` for chosen frames only. FFmpeg converts the colours and scales in one step;
rotations and mirrors of the display matrix are moves of whole pixels afterwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mmembed.inputs.media import MediaFile, MediaPolicy
from mmembed.inputs.sizing import MediaBudget

__all__ = ["FrameScaler"]


class FrameScaler:
    """Scales the frames of one clip. Not thread-safe."""

    def __init__(self, media: MediaFile, policy: MediaPolicy, budget: MediaBudget) -> None:
        from av.video.reformatter import VideoReformatter

        self._media = media
        self._policy = policy
        self._budget = budget
        self._reformatter = VideoReformatter()  # its tables are made once, not for each frame

    def __call__(self, frame: Any) -> np.ndarray:
        """uint8 (height, width, 3) of an `av.VideoFrame`."""
        self._media.check_pixels(frame.width, frame.height, self._policy)
        swap, flip_x, flip_y = _display_moves(frame)
        height, width = float(frame.height), float(frame.width)
        aspect = _pixel_aspect(frame)
        width *= aspect
        rows, columns = self._budget.resize(*((width, height) if swap else (height, width)))
        if swap:
            rows, columns = columns, rows
        picture = self._reformatter.reformat(
            frame,
            width=columns,
            height=rows,
            format="rgb24",
            interpolation="BICUBIC",
            threads=1,  # the default starts one for each core, each with memory of its own
        ).to_ndarray()
        if swap:
            picture = picture.swapaxes(0, 1)
        if flip_x:
            picture = picture[:, ::-1]
        if flip_y:
            picture = picture[::-1]
        return np.ascontiguousarray(picture)


def _pixel_aspect(frame: Any) -> float:
    """Width of a pixel by its height; values no camera writes are taken as 1."""
    ratio = getattr(frame, "sample_aspect_ratio", None)
    value = float(ratio) if ratio else 1.0
    return value if 0.1 <= value <= 10.0 else 1.0


def _display_moves(frame: Any) -> tuple[bool, bool, bool]:
    """What the display matrix asks for: swap rows and columns, then mirror x, then mirror y.

    The matrix maps stored (x, y) to shown (a x + c y, b x + d y), in 16.16 fixed point
    (ISO/IEC 14496-12, 6.2.2). Cameras write multiples of 90 degrees and mirrors; others are
    rounded to the nearest of these.
    """
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0
