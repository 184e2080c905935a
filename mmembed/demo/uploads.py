"""Files that a visitor searches with: streamed into a private folder, bounded, soon removed.

request body -> Uploads.receive -> Upload -> a part of the query
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import ClientDisconnect

from mmembed.demo.settings import DemoSettings
from mmembed.demo.thumbnails import poster_part
from mmembed.inputs.media import MediaPart, printable_name
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.server.errors import RequestError
from mmembed.sources import sniff_media
from mmembed.types import Image, Page, Video

__all__ = ["Upload", "Uploads"]

_LINGER_SECONDS = 3.0
_PROBE = MediaBudget(min_pixels=1, max_pixels=56 * 56, factor=2)


@dataclass
class Upload:
    """One file of a visitor; `pages` of a PDF, `duration` of a clip in seconds."""

    id: str
    kind: str
    name: str
    path: Path
    size: int
    pages: int | None = None
    duration: float | None = None
    used: float = field(default=0.0)

    def part(
        self, page: int | None = None, start: float | None = None, end: float | None = None
    ) -> MediaPart:
        """What the model reads of it.

        Raises:
            RequestError: 400, a page of something that has none, or seconds of what does not move.
        """
        if page is not None and self.kind != "pdf":
            raise RequestError(400, "invalid_upload", f"{self.name} has no pages")
        if (start is not None or end is not None) and self.kind != "video":
            raise RequestError(400, "invalid_upload", f"{self.name} is no clip")
        if self.kind == "image":
            return Image(self.path)
        if self.kind == "pdf":
            return Page(self.path, pages=str(page or 1))
        if start is not None and end is not None and end < start:
            raise RequestError(400, "invalid_upload", f"{end:g} s lies before {start:g} s")
        return Video(self.path, start=start, end=end)

    def poster(self, page: int | None = None) -> MediaPart:
        """What stands for it in the page."""
        if self.kind == "video":
            return poster_part(self.path, 0.0, self.duration)
        return self.part(page)


class Uploads:
    """All uploads of this process. Thread-safe; `close` removes them.

    Args:
        clock: seconds that only grow.
    """

    def __init__(
        self,
        settings: DemoSettings,
        decoder: MediaDecoder,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._decoder = decoder
        self._clock = clock
        self._folder = tempfile.TemporaryDirectory(prefix="mmembed-demo-")  # mode 0700
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._arriving = 0  # bytes of uploads that are on their way
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            self._kept.clear()
        self._folder.cleanup()

    async def receive(self, body: AsyncIterator[bytes], name: str) -> Upload:
        """Store a body as it comes; `inspect` says what it is.

        Raises:
            RequestError: 413 beyond the limits, 415 for what is no picture, clip or PDF, 400 for
                an empty one.
        """
        self.expire()
        shown = printable_name(Path(Path(name).name or "file"))
        upload = Upload(secrets.token_urlsafe(16), "", shown, Path(), 0)
        upload.path = Path(self._folder.name) / upload.id
        descriptor = os.open(upload.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                async with asyncio.timeout(self.settings.upload_timeout_seconds):
                    async for piece in body:
                        self._reserve(upload, len(piece))
                        file.write(piece)
            upload.kind = self._kind(upload)
        except (TimeoutError, ClientDisconnect):
            self._release(upload)
            raise RequestError(408, "body_timeout", "the file did not arrive in time") from None
        except RequestError:
            self._release(upload)
            await _drain(body)
            raise
        except BaseException:  # a visitor who leaves, too
            self._release(upload)
            raise
        return upload

    def inspect(self, upload: Upload) -> Upload:
        """Open it once, so that what cannot be used is refused here; then keep it.

        Raises:
            InputError: it cannot be decoded.
        """
        try:
            if upload.kind == "pdf":
                upload.pages = self._decoder.page_count(upload.path)
            elif upload.kind == "video":
                # the last of two frames spread over the clip is its last frame
                times = self._decoder.decode(Video(upload.path, num_frames=2), _PROBE).timestamps
                upload.duration = max(times, default=0.0)
            else:
                self._decoder.decode(Image(upload.path), _PROBE)
        except BaseException:
            self._release(upload)
            raise
        with self._lock:
            self._arriving -= upload.size
            upload.used = self._clock()
            self._kept[upload.id] = upload
            while self._is_full():
                self._forget(next(iter(self._kept)))
        return upload

    def get(self, name: str) -> Upload:
        """Raises RequestError (404) for an upload that is unknown, removed or too old."""
        self.expire()
        with self._lock:
            upload = self._kept.get(name)
            if upload is None:
                raise RequestError(404, "no_upload", "this upload is gone; add the file again")
            upload.used = self._clock()
            self._kept.move_to_end(name)
            return upload

    def remove(self, name: str) -> None:
        """Unknown ones are ignored."""
        with self._lock:
            if name in self._kept:
                self._forget(name)

    def expire(self) -> None:
        """Remove what was not used for long."""
        oldest = self._clock() - self.settings.upload_seconds
        with self._lock:
            for name in [each.id for each in self._kept.values() if each.used < oldest]:
                self._forget(name)

    def _kind(self, upload: Upload) -> str:
        if upload.size == 0:
            raise RequestError(400, "empty", f"{upload.name} is empty")
        with upload.path.open("rb") as file:
            kind = sniff_media(file.read(1024))
        if kind is None:
            raise RequestError(
                415,
                "unsupported_format",
                f"{upload.name} is no picture, video or PDF that can be read",
            )
        return kind

    def _reserve(self, upload: Upload, count: int) -> None:
        limit = self.settings.upload_bytes
        if upload.size + count > limit:
            raise RequestError(
                413, "too_large", f"{upload.name} is larger than {limit:,} bytes, the limit here"
            )
        with self._lock:
            if self._arriving + count > self.settings.uploads_bytes:
                raise RequestError(413, "too_large", "too many uploads at once; try again later")
            upload.size += count
            self._arriving += count

    def _release(self, upload: Upload) -> None:
        with self._lock:
            self._arriving -= upload.size
        upload.path.unlink(missing_ok=True)

    def _is_full(self) -> bool:
        settings = self.settings
        total = sum(each.size for each in self._kept.values())
        return len(self._kept) > settings.uploads_count or total > settings.uploads_bytes

    def _forget(self, name: str) -> None:
        self._kept.pop(name).path.unlink(missing_ok=True)


async def _drain(body: AsyncIterator[bytes]) -> None:
    """Read on for a moment: a browser that is cut off while it sends never sees the answer."""
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_LINGER_SECONDS):
            async for _ in body:
                pass
