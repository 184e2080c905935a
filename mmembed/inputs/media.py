"""The limits under which media are opened, what decoding returns, and the way to each decoder.

Flow: `Image | Video | Page` -> `sandbox.MediaDecoder` (a killable process) -> `decode` here ->
`images`, `video` or `documents` -> `DecodedMedia` -> processor. Every file and byte string is
opened by `open_media`, the one place where size, kind and location of a file are checked.
Torch-free: decode processes import this module and must start fast.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from mmembed.errors import InputError, InputErrorCode
from mmembed.types import Image, MediaSource, Page, Url, Video

if TYPE_CHECKING:
    import numpy as np

    from mmembed.inputs.sizing import MediaBudget

__all__ = [
    "DecodedMedia",
    "MediaFile",
    "MediaPart",
    "MediaPolicy",
    "bytes_name",
    "decode",
    "join",
    "open_media",
    "part_name",
    "pixels_text",
    "printable_name",
]

MediaPart = Image | Video | Page
PartName = Literal["image", "video", "pdf"]
HEAD_BYTES = 1024  # PDF readers accept `%PDF-` anywhere in the first 1,024 bytes


@dataclass(frozen=True)
class MediaPolicy:
    """What may be opened and how much of it. The defaults suit files of unknown origin.

    Args:
        allow_urls: fetch http(s) media at all.
        allowed_hosts: exact host names that may be fetched; empty allows every public host.
        allow_http: also plain http, not only https.
        max_redirects: redirects followed, at most 3, each checked like the first address.
        fetch_timeout_seconds: wall clock of a whole fetch.
        max_fetch_bytes: size of a fetched body.
        allowed_roots: files must lie in one of these folders after links are resolved; None
            allows every folder.
        max_bytes: size of a file or byte string.
        max_pixels: pixels of one picture or frame, checked before decoding. The default is
            Pillow's own limit.
        max_frames: frames taken from one clip; a higher `fps` is lowered to it.
        max_frames_asked: a clip of which `fps` asks for more frames is refused. Unlike
            `max_frames` it changes no vector. None: no clip is.
        max_pages: pages rendered for one part.
        timeout_seconds: wall clock for one image or clip; the decode process is killed after it.
        page_timeout_seconds: the same for each page of a PDF.
        memory_bytes: address space of a decode process.
        isolate: decode files and bytes in a separate, killable process.
        items_per_worker: a decode process is replaced after this many parts.
        video_reader: `pyav`, or `decord` with the index sampling of qwen_vl_utils, for parity
            with published numbers (mp4 and webm only, because decord 0.6 returns wrong frames
            elsewhere).
        scaled_jpeg: decode a large JPEG at a half, a quarter or an eighth of its size where the
            budget asks for no more: faster, and other pixels, so other vectors.
        background: RGB behind transparent pixels.
        strict_video: a clip of which a part is missing or damaged is an error, not a warning.
        page_dpi: resolution at which a page would fill its paper size; the budget then bounds it.
    """

    allow_urls: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allow_http: bool = False
    max_redirects: int = 0
    fetch_timeout_seconds: float = 15.0
    max_fetch_bytes: int = 100_000_000
    allowed_roots: tuple[Path, ...] | None = None
    max_bytes: int = 2_000_000_000
    max_pixels: int = 89_478_485
    max_frames: int = 768
    max_frames_asked: int | None = None
    max_pages: int = 50
    timeout_seconds: float = 30.0
    page_timeout_seconds: float = 10.0
    memory_bytes: int = 3 << 30
    isolate: bool = True
    items_per_worker: int = 1000
    video_reader: Literal["pyav", "decord"] = "pyav"
    scaled_jpeg: bool = False
    background: tuple[int, int, int] = (255, 255, 255)
    strict_video: bool = False
    page_dpi: int = 200


@dataclass(frozen=True)
class DecodedMedia:
    """Pictures of one part, in order.

    Args:
        frames: uint8 (height, width, 3) RGB arrays: one for an image, one for each sampled frame
            of a clip and for each page of a PDF. An image keeps its full size; frames of a video
            file and pages already have the size that the budget asks for.
        timestamps: seconds from the start of the clip, for each frame of a video.
        pages: 1-based page number of each frame of a PDF.
        warnings: what was decoded with a loss, e.g. `animated: frame 0 of 30`.
    """

    frames: tuple[np.ndarray, ...]
    timestamps: tuple[float, ...] = ()
    pages: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()


def join(pieces: Iterable[DecodedMedia]) -> DecodedMedia:
    """One `DecodedMedia` of pieces that follow each other; repeated warnings are kept once."""
    pieces = list(pieces)
    return DecodedMedia(
        frames=tuple(frame for piece in pieces for frame in piece.frames),
        timestamps=tuple(time for piece in pieces for time in piece.timestamps),
        pages=tuple(page for piece in pieces for page in piece.pages),
        warnings=tuple(dict.fromkeys(text for piece in pieces for text in piece.warnings)),
    )


def part_name(part: MediaPart) -> PartName:
    """The word for this kind of part in messages."""
    if isinstance(part, Image):
        return "image"
    return "video" if isinstance(part, Video) else "pdf"


def decode(
    part: MediaPart,
    budget: MediaBudget,
    policy: MediaPolicy,
    *,
    name: str | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[DecodedMedia]:
    """Decode one part whose source is a file or bytes, in this process, piece by piece.

    A PDF gives one piece for each page, so that a time limit can apply to each; everything else
    gives one. `name` replaces the source in messages (the host of a fetched part); `share` (i, n)
    asks for the i-th of n shares of the pages. Lists of frames and addresses are the business of
    `sandbox.MediaDecoder`.

    Raises:
        InputError: with part, source and code.
    """
    if isinstance(part, Image):
        from mmembed.inputs import images

        with open_media(_stored(part.source), policy, "image", name=name) as media:
            yield images.decode_image(media, budget, policy)
    elif isinstance(part, Video):
        from mmembed.inputs import video

        with open_media(_stored(part.source), policy, "video", name=name) as media:
            yield video.decode_video(media, part, budget, policy)
    else:
        from mmembed.inputs import documents

        with open_media(part.source, policy, "pdf", name=name) as media:
            yield from documents.decode_pages(media, part, budget, policy, share=share)


def _stored(source: object) -> MediaSource:
    assert isinstance(source, Path | bytes), type(source)
    return source


class MediaFile:
    """An opened, bounded source: what decoders read from and how they name it in errors."""

    def __init__(
        self, part: PartName, file: BinaryIO, size: int, *, path: Path | None, name: str | None
    ) -> None:
        self.part = part
        self.file = file
        self.size = size
        self.path = path
        self._name = name
        self.head = file.read(HEAD_BYTES)
        file.seek(0)

    @property
    def name(self) -> str:
        """Basename, host, or `bytes:<sha256[:12]>`."""
        if self._name is None:
            self._name = printable_name(self.path) if self.path else bytes_name(self.read())
        return self._name

    def read(self) -> bytes:
        """All of it."""
        if isinstance(self.file, io.BytesIO):
            return self.file.getvalue()
        self.file.seek(0)
        return self.file.read()

    def tail(self, count: int) -> bytes:
        """The last `count` bytes."""
        self.file.seek(max(0, self.size - count))
        return self.file.read()

    def error(
        self, code: InputErrorCode, detail: str, index: tuple[str, int] | None = None
    ) -> InputError:
        """An error of this source."""
        return InputError(code, detail, part=self.part, source=self.name, index=index)

    def check_pixels(self, width: int, height: int, policy: MediaPolicy) -> None:
        """Refuse a picture from its size alone (`too_many_pixels`)."""
        if width * height > policy.max_pixels:
            raise self.error("too_many_pixels", pixels_text(width, height, policy))

    @contextmanager
    def naming_errors(self) -> Iterator[None]:
        """Give errors raised by code that knows no file (sizes) the name of this one."""
        try:
            yield
        except InputError as error:
            if error.source is None:
                error.part, error.source = self.part, self.name
            raise


def pixels_text(width: int, height: int, policy: MediaPolicy) -> str:
    """The sentence of `too_many_pixels`."""
    return (
        f"{width:,} x {height:,} pixels; the media policy allows {policy.max_pixels:,} in all "
        "(max_pixels)"
    )


def bytes_name(data: bytes) -> str:
    """The name of bytes in messages."""
    return f"bytes:{hashlib.sha256(data).hexdigest()[:12]}"


def printable_name(path: Path) -> str:
    """The basename without what could break a terminal or a log line, at most 100 characters."""
    name = path.name or "/"
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:100]


@contextmanager
def open_media(
    source: MediaSource, policy: MediaPolicy, part: PartName, *, name: str | None = None
) -> Iterator[MediaFile]:
    """Open a file or bytes within the policy.

    Raises:
        InputError: `not_found`, `not_a_file`, `permission`, `forbidden_path`, `too_large`,
            `empty`.
    """
    assert not isinstance(source, Url), "addresses are fetched before they get here"
    if isinstance(source, bytes):
        label = name or (None if source else "bytes")
        _check_size(len(source), policy, part, label)
        yield MediaFile(part, io.BytesIO(source), len(source), path=None, name=name)
        return
    label = name or printable_name(source)
    resolved = _resolve(source, policy, part, label)
    try:
        # non-blocking: a pipe put in the place of the file after the check must not hang us
        descriptor = os.open(resolved, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise _os_error(error, part, label) from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _check_regular(status, part, label)
        _check_size(status.st_size, policy, part, label)
        yield MediaFile(part, file, status.st_size, path=resolved, name=label)


def _resolve(path: Path, policy: MediaPolicy, part: PartName, label: str) -> Path:
    try:
        status = path.stat()
        resolved = path.resolve(strict=True)
    except (ValueError, RuntimeError):  # NUL or a lone surrogate in the name; a loop of links
        raise InputError("not_found", "no such file", part=part, source=label) from None
    except OSError as error:
        raise _os_error(error, part, label) from None
    if policy.allowed_roots is not None and not any(
        resolved.is_relative_to(Path(root).resolve()) for root in policy.allowed_roots
    ):
        raise InputError(
            "forbidden_path",
            "the file lies outside the folders that the media policy allows (allowed_roots)",
            part=part,
            source=label,
        )
    _check_regular(status, part, label)
    return resolved


def _os_error(error: OSError, part: PartName, label: str) -> InputError:
    code: InputErrorCode
    if error.errno in {errno.EACCES, errno.EPERM}:
        code, detail = "permission", "this process may not read the file"
    elif error.errno == errno.ELOOP:
        code, detail = "not_a_file", "the link leads back to itself"
    elif error.errno in {errno.ENXIO, errno.EISDIR}:
        code, detail = "not_a_file", "not a regular file"
    else:
        code, detail = "not_found", "no such file"
    return InputError(code, detail, part=part, source=label)


def _check_regular(status: os.stat_result, part: PartName, label: str) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }.get(stat.S_IFMT(status.st_mode), "not a regular file")
    raise InputError("not_a_file", f"{kind}; give a regular file", part=part, source=label)


def _check_size(size: int, policy: MediaPolicy, part: PartName, label: str | None) -> None:
    if size == 0:
        raise InputError("empty", "no bytes in it", part=part, source=label)
    if size > policy.max_bytes:
        raise InputError(
            "too_large",
            f"{size:,} bytes; the media policy allows {policy.max_bytes:,} (max_bytes)",
            part=part,
            source=label,
        )
