"""Pictures and clips as a chat server takes them: JPEG in data URIs, within limits."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

from mmembed.errors import InputError
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.synthesis.pipeline import Pictures
from mmembed.types import MultimodalInput, Text, Video

__all__ = ["PictureReader", "Shown"]

PIXELS_PER_TOKEN = 28 * 28  # of Qwen2-VL: patches of 14 pixels, four to a token


@dataclass(frozen=True)
class Shown:
    """Content parts of a message, seconds of the clip in them, and about how many tokens."""

    parts: tuple[dict[str, Any], ...]
    duration: float | None
    num_tokens: float


class PictureReader:
    """Opens the media of items. Thread-safe; use it as a context manager."""

    def __init__(self, settings: Pictures, policy: MediaPolicy | None = None) -> None:
        self._settings = settings
        self._decoder = MediaDecoder(policy)
        self._budget = MediaBudget(
            settings.min_pixels, settings.max_pixels, num_frames=settings.num_frames
        )

    def __enter__(self) -> PictureReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._decoder.close()

    def show(self, item: MultimodalInput) -> Shown:
        """All pictures of an item in order; each frame of a clip behind its time.

        Raises:
            InputError: one of them cannot be opened, or there are none.
        """
        parts: list[dict[str, Any]] = []
        duration: float | None = None
        num_pixels = 0
        for part in item.parts:
            if isinstance(part, Text):
                continue
            media = self._decoder.decode(part, self._budget)
            if isinstance(part, Video):
                duration = max(media.timestamps, default=0.0) - (part.start or 0.0)
            for place, frame in enumerate(media.frames):
                if isinstance(part, Video):
                    seconds = media.timestamps[place] - (part.start or 0.0)
                    parts.append({"type": "text", "text": f"[{seconds:.1f} s]"})
                url, area = self._data_uri(frame)
                parts.append({"type": "image_url", "image_url": {"url": url}})
                num_pixels += area
        if not parts:
            raise InputError("empty", "the item has no picture, clip or page to show")
        return Shown(tuple(parts), duration, num_pixels / PIXELS_PER_TOKEN)

    def _data_uri(self, frame: Any) -> tuple[str, int]:
        from PIL import Image

        height, width = self._budget.resize(*frame.shape[:2])
        picture = Image.fromarray(frame)
        if (width, height) != picture.size:
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=self._settings.jpeg_quality)
        encoded = base64.b64encode(file.getvalue()).decode("ascii")
        return f"data:image/jpeg;base64,{encoded}", width * height
