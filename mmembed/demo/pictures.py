"""Small pictures of media: decoded within the media policy, encoded anew without metadata.

What a browser gets never holds bytes of the file itself: no place, camera or author, and nothing
that an image decoder of a browser could stumble over.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

from PIL import Image as PILImage

from mmembed.inputs.media import MediaPart
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import Video

__all__ = ["WIDTHS", "Picture", "PictureCache", "fit_width", "render"]

WIDTHS = (64, 160, 320, 640, 1000, 1400, 2000)
_QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """An encoded picture."""

    data: bytes
    media_type: str


def fit_width(width: int) -> int:
    """The next width that is made, so that few sizes of a picture are kept."""
    return next((each for each in WIDTHS if each >= width), WIDTHS[-1])


def render(decoder: MediaDecoder, part: MediaPart, width: int) -> Picture:
    """The (first) picture of a part, at most `width` wide and twice as high, as WebP.

    Raises:
        InputError: the media cannot be decoded.
    """
    pixels = 2 * width * width
    budget = MediaBudget(min_pixels=1, max_pixels=pixels, factor=1, num_frames=1)
    if isinstance(part, Video):
        part = replace(part, num_frames=1, fps=None, sampling="uniform")
    frame = decoder.decode(part, budget).frames[0]
    picture = PILImage.fromarray(frame)
    picture.thumbnail((width, 2 * width), PILImage.Resampling.LANCZOS, reducing_gap=3.0)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=_QUALITY, method=2)
    return Picture(file.getvalue(), "image/webp")


class PictureCache:
    """The pictures that were asked for last, within a number of bytes. Thread-safe.

    Whoever asks for a picture that is being made waits for it instead of making it again.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._kept: OrderedDict[Hashable, Picture] = OrderedDict()
        self._making: dict[Hashable, threading.Event] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Picture]) -> Picture:
        while True:
            with self._lock:
                found = self._kept.get(key)
                if found is not None:
                    self._kept.move_to_end(key)
                    return found
                making = self._making.get(key)
                if making is None:
                    self._making[key] = threading.Event()
                    break
            making.wait()
            # it failed, or was too large to keep: make it in turn
        try:
            made = make()
            with self._lock:
                self._keep(key, made)
            return made
        finally:
            with self._lock:
                self._making.pop(key).set()

    def _keep(self, key: Hashable, picture: Picture) -> None:
        if len(picture.data) > self.max_bytes:
            return
        self._kept[key] = picture
        self.num_bytes += len(picture.data)
        while self.num_bytes > self.max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.num_bytes -= len(dropped.data)
