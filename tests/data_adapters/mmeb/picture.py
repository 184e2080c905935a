"""One small picture as bytes, for files that are named and never looked at."""

from __future__ import annotations

from io import BytesIO

import PIL.Image


def _encoded(kind: str) -> bytes:
    stream = BytesIO()
    PIL.Image.new("RGB", (4, 4), "teal").save(stream, kind)
    return stream.getvalue()


JPEG = _encoded("JPEG")
PNG = _encoded("PNG")
