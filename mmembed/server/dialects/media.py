"""Media in a request: data URIs, base64 and addresses -> bytes or `Url`; never a path.

Everything that a client writes under a media key passes through `MediaReader.source`. What the
bytes are is decided by the decoders; here only sizes, encodings and obvious mix-ups are judged,
before anything is decoded.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from mmembed.errors import InputError
from mmembed.inputs.media import MediaPolicy
from mmembed.sources import MEDIA_SUFFIXES, MediaKind, Url, sniff_media

__all__ = ["MediaReader", "media_in_text"]

_SCHEME = re.compile(r"\s*([a-zA-Z][a-zA-Z0-9+.\-]{0,20}):")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_SPACE = re.compile(r"\s+")
# declared types whose bytes are code or markup, whatever they hold
_NOT_MEDIA = re.compile(r"text/|image/svg|application/(json|javascript|xml|xhtml)|.*\+(xml|json)$")
_NOT_IN_PROSE = frozenset({"ts", "mts"})  # also suffixes of source code
_SHORTEST_BASE64 = 64
_HOW = "send a data URI (data:image/png;base64,...)"


@dataclass(frozen=True)
class MediaReader:
    """Turns what a client wrote under a media key into a source.

    Args:
        policy: of the model that will open the source; an address is refused here when it would
            be refused there, with words for a client.
        most_bytes: of one picture, clip or PDF.
    """

    policy: MediaPolicy
    most_bytes: Mapping[MediaKind, int]

    def source(self, value: Any, kind: MediaKind) -> bytes | Url:
        """
        Raises:
            InputError: without an index.
        """
        if isinstance(value, Mapping):
            value = _inner(value, kind)
        if not isinstance(value, str):
            raise InputError("invalid_type", f"expected a string; {_HOW}", part=kind)
        scheme = _SCHEME.match(value[:40])
        name = scheme.group(1).lower() if scheme else ""
        if name == "data":
            return self._checked(self._data_uri(value.strip(), kind), kind)
        if name in {"http", "https"}:
            return self._address(value.strip(), kind)
        if name:
            raise InputError(
                "forbidden_url", f"addresses of this scheme are not opened; {_HOW}", part=kind
            )
        return self._checked(self._bare_base64(value, kind), kind)

    def _address(self, value: str, kind: MediaKind) -> Url:
        if not self.policy.allow_urls:
            raise InputError(
                "forbidden_url",
                "this server fetches no addresses unless it is started with --allow-host HOST; "
                + _HOW,
                part=kind,
            )
        return Url(value)

    def _data_uri(self, value: str, kind: MediaKind) -> bytes:
        header, comma, payload = value[5:].partition(",")
        if not comma or len(header) > 200:
            raise InputError("corrupt", f"the data URI has no comma; {_HOW}", part=kind)
        declared = header.partition(";")[0].strip().lower()
        if _NOT_MEDIA.match(declared):
            raise InputError(
                "unsupported_format",
                "the data URI declares text or markup, which is no picture, clip or PDF",
                part=kind,
            )
        if header.lower().replace(" ", "").endswith(";base64"):
            if "%" in payload[-12:]:  # the padding, percent-encoded
                payload = payload.replace("%3D", "=").replace("%3d", "=")
            return self._base64(payload, kind)
        self._check_size(len(payload) - 2 * payload.count("%"), kind)
        return unquote_to_bytes(payload)

    def _bare_base64(self, value: str, kind: MediaKind) -> bytes:
        """Base64 without `data:`; taken only when it begins like a media file."""
        head = _decoded(value[:1400])
        if head is None or sniff_media(head[:1024]) is None:
            raise InputError(
                "forbidden_path",
                f"this is no data URI and no base64 of a media file; the server opens no files "
                f"of its own machine; {_HOW}",
                part=kind,
            )
        return self._base64(value, kind)

    def _base64(self, payload: str, kind: MediaKind) -> bytes:
        if any(space in payload for space in " \n\r\t"):
            payload = _SPACE.sub("", payload)
        self._check_size(len(payload) * 3 // 4 - payload[-2:].count("="), kind)
        if "-" in payload or "_" in payload:
            payload = payload.translate(str.maketrans("-_", "+/"))
        try:
            return base64.b64decode(payload + "=" * (-len(payload) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise InputError("corrupt", "not valid base64", part=kind) from None

    def _check_size(self, size: int, kind: MediaKind) -> None:
        most = self.most_bytes[kind]
        if size > most:
            raise InputError("too_large", f"{size:,} bytes; allowed: {most:,}", part=kind)

    def _checked(self, data: bytes, kind: MediaKind) -> bytes:
        if not data:
            raise InputError("empty", "no bytes in it", part=kind)
        found = sniff_media(data[:1024])
        if found is not None and found != kind and "pdf" in (found, kind):
            raise InputError(
                "unsupported_format", f"the bytes are of kind {found}; send them as {found}",
                part=kind,
            )  # fmt: skip
        return data


def _inner(value: Mapping[str, Any], kind: MediaKind) -> Any:
    """`{"url": ...}` of chats, `{"bytes": ...}` of Jina."""
    if value.get("detail") not in (None, "auto"):
        raise InputError(
            "invalid_type", "detail is not supported; give max_tokens beside the image", part=kind
        )
    found = [value[key] for key in ("url", "bytes", "base64") if value.get(key) is not None]
    if len(found) != 1 or value.keys() - {"url", "bytes", "base64", "detail"}:
        raise InputError("invalid_type", 'expected {"url": ...} or {"bytes": ...}', part=kind)
    return found[0]


def _decoded(text: str) -> bytes | None:
    """The bytes behind the first letters of base64 text, or None."""
    compact = _SPACE.sub("", text)
    compact = compact.rstrip("=").translate(str.maketrans("-_", "+/"))
    compact = compact[: len(compact) // 4 * 4]
    if not compact or not _BASE64.fullmatch(compact):
        return None
    return base64.b64decode(compact)


def media_in_text(text: str) -> MediaKind | None:
    """What a text that is meant to be embedded as text seems to be instead, if anything.

    An address whose path ends like a media file, a `data:` URI, or base64 of a media file. A text
    with more words around it is a text.
    """
    text = text.strip()
    scheme = _SCHEME.match(text[:40])
    name = scheme.group(1).lower() if scheme else ""
    if name == "data":
        declared, comma, _ = text[5:300].partition(",")
        if comma and re.fullmatch(r"[\w.+-]+/[\w.+-]+(;[^,\s]*)?|;base64", declared.lower()):
            kind = declared.partition("/")[0].lower()
            return "pdf" if "pdf" in declared.lower() else "video" if kind == "video" else "image"
        return None
    if name in {"http", "https", "file", "s3", "gs"}:
        if len(text) > 4096 or _SPACE.search(text):
            return None
        try:
            path = urlsplit(text).path
        except ValueError:
            return None
        suffix = path.rpartition("/")[2].rpartition(".")[2].lower()
        return None if suffix in _NOT_IN_PROSE else MEDIA_SUFFIXES.get(suffix)
    if len(text) < _SHORTEST_BASE64 or " " in text[:_SHORTEST_BASE64]:
        return None
    head = _decoded(text[:1400])
    if head is None or not head or (head[:1] == b"G" and not head.startswith(b"GIF8")):
        return None  # one letter is too little evidence for a transport stream
    return sniff_media(head[:1024])
