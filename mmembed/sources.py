"""Where media come from and what kind they are: sources, their spellings, and magic bytes.

The bottom of the vocabulary in `types.py`. Reads at most the first kilobyte of a regular file.
"""

from __future__ import annotations

import base64
import binascii
import re
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from mmembed.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as PILImage

__all__ = [
    "MEDIA_SUFFIXES",
    "ImageSource",
    "MediaKind",
    "MediaSource",
    "Url",
    "image_source",
    "invalid_type",
    "is_picture",
    "kind_of_suffix",
    "media_kind",
    "media_source",
    "page_numbers",
    "plain_option",
    "sniff_media",
]

MediaKind = Literal["image", "video", "pdf"]


@dataclass(frozen=True)
class Url:
    """A media address. Only fetched when the media policy allows URLs."""

    url: str


MediaSource: TypeAlias = "Path | bytes | Url"
ImageSource: TypeAlias = "Path | bytes | Url | PILImage | np.ndarray"

_VIDEO_MAGIC = (b"\x1a\x45\xdf\xa3", b"OggS", b"FLV\x01", b"\0\0\x01\xba", b"\0\0\x01\xb3")
MEDIA_SUFFIXES: dict[str, MediaKind] = {
    **dict.fromkeys("png jpg jpeg jfif webp gif bmp tif tiff avif".split(), "image"),
    **dict.fromkeys("mp4 m4v mov mkv webm avi ts mts mpg mpeg ogv flv wmv 3gp".split(), "video"),
    "pdf": "pdf",
}


def invalid_type(value: Any, accepted: str, *, part: str = "item") -> InputError:
    """The error for a value of a type that nothing accepts."""
    return InputError(
        "invalid_type", f"got {type(value).__name__}; accepted: {accepted}", part=part
    )


def is_picture(value: Any) -> bool:
    """PIL image or array, without importing PIL or numpy for people who use neither."""
    if isinstance(value, str | bytes):  # numpy's strings are paths, not pictures
        return False
    modules = {base.__module__.split(".")[0] for base in type(value).__mro__}
    return "PIL" in modules or ("numpy" in modules and hasattr(value, "ndim"))


def image_source(value: Any) -> ImageSource:
    return value if is_picture(value) else media_source(value, "image")


_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.\-]{1,20}):")


def media_source(value: Any, part: str) -> MediaSource:
    """A path, bytes, data-URI or URL under a media key. Schemes are case-insensitive."""
    if isinstance(value, Path | bytes | Url):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str):
        raise invalid_type(value, "path, bytes, data-URI or URL", part=part)
    match = _SCHEME.match(value)
    scheme = match.group(1).lower() if match else ""
    if scheme in {"http", "https"}:
        return Url(value)
    if scheme == "data":
        return _decode_data_uri(value, part)
    if scheme == "file":
        return _path_of_file_uri(value, part)
    if scheme and "://" in value[:40]:
        raise InputError(
            "forbidden_url",
            f"scheme {scheme!r}; allowed: http, https, data, file, or a plain path",
            part=part,
        )
    if not value:
        raise InputError("empty", "the path is an empty string", part=part)
    return Path(value)


def _path_of_file_uri(uri: str, part: str) -> Path:
    try:
        fields = urlsplit(uri)
    except ValueError:
        raise InputError("not_found", "the file URI is malformed", part=part) from None
    if fields.netloc.lower() not in {"", "localhost"}:
        raise InputError("forbidden_url", "the file URI names another host", part=part)
    return Path(unquote(fields.path))


def _decode_data_uri(uri: str, part: str) -> bytes:
    header, comma, payload = uri[5:].partition(",")
    if not comma:
        raise InputError("corrupt", "the data-URI has no comma", part=part, source="data-URI")
    if not header.lower().endswith(";base64"):
        return unquote_to_bytes(payload)
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InputError(
            "corrupt", "the data-URI is not valid base64", part=part, source="data-URI"
        ) from None


_LARGEST = 2**31 - 1


def plain_option(name: str, value: Any, part: str) -> Any:
    """An option of a part as a plain number or text; numbers of other libraries are converted.

    Raises:
        InputError: `invalid_type`.
    """
    if value is None:
        return None
    if name in {"min_tokens", "max_tokens", "num_frames"}:
        fits = _is_whole(value) and 1 <= value <= _LARGEST
        accepted = f"a whole number from 1 to {_LARGEST:,} as {name}"
    elif name in {"fps", "start", "end"}:
        fits = abs(value) <= _LARGEST if _is_whole(value) else isinstance(value, Real)
        accepted = f"a number as {name}"
    else:
        fits, accepted = isinstance(value, str), f"str as {name}"
    if not fits or isinstance(value, bool):
        raise invalid_type(value, accepted, part=part)
    if isinstance(value, str):
        return str(value)
    return int(value) if _is_whole(value) else float(value)


def page_numbers(value: Any) -> str:
    """`3`, `[1, 4]` or `"1-5"` -> what `Page.pages` holds.

    Raises:
        InputError: `invalid_type`.
    """
    several = isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)
    pages = list(value) if several else [value]
    fits = (isinstance(n, str) or (_is_whole(n) and abs(n) <= _LARGEST) for n in pages)
    if not pages or not all(fits):
        raise invalid_type(
            value, "a page number, a list of them, or str such as '1-5', as pages", part="pdf"
        )
    return ",".join(map(str, pages))


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def sniff_media(head: bytes) -> MediaKind | None:
    """What the first bytes of a file (1,024 are enough) say it is; None when unknown."""
    if b"%PDF-" in head[:1024]:
        return "pdf"
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")):
        return "image"
    if head[:4] == b"RIFF":
        if head[8:12] == b"WEBP":
            return "image"
        return "video" if head[8:12] == b"AVI " else None
    if head[:2] == b"BM" and len(head) > 26:
        return "image"
    if head[4:8] == b"ftyp":
        return "image" if head[8:12] in {b"avif", b"avis"} else "video"
    if head[4:8] in {b"moov", b"mdat", b"wide", b"free", b"skip"}:
        return "video"
    if head.startswith(_VIDEO_MAGIC):
        return "video"
    if head[:1] == b"G" and (len(head) <= 188 or head[188:189] == b"G"):
        return "video"  # MPEG-TS: a sync byte every 188 bytes
    return None


def kind_of_suffix(path: Path) -> MediaKind | None:
    """What the file name promises; None for an unknown suffix."""
    return MEDIA_SUFFIXES.get(path.suffix[1:].lower())


def media_kind(path: Path) -> MediaKind | None:
    """What the content of a regular file says it is, else what its suffix says."""
    found: MediaKind | None = None
    try:
        if stat.S_ISREG(path.stat().st_mode):
            with path.open("rb") as file:
                found = sniff_media(file.read(1024))
    except (OSError, ValueError):
        pass
    return found or kind_of_suffix(path)
