"""Names an item by its content, so that a vector is found again whatever the file is called.

First step of `vectors.py`: items -> content_key -> EmbeddingStore.missing -> encode -> add.
"""

from __future__ import annotations

import hashlib
import stat
import struct
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.errors import InputError
from mmembed.inputs.media import printable_name
from mmembed.types import MultimodalInput, Page, Part, Role, Text, Url

__all__ = ["Digest", "content_key", "hash_file", "source_digest"]

Digest = Callable[[Path], str]


def hash_file(path: Path) -> str:
    """sha256 of a regular file as 64 hex digits, read in pieces.

    Raises:
        InputError: `not_found`, `not_a_file`, `permission` or `corrupt`.
    """
    try:
        is_regular = stat.S_ISREG(path.stat().st_mode)
    except ValueError:
        raise InputError("not_found", "the path has a NUL character") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    if not is_regular:  # opening a pipe could wait for ever
        raise InputError("not_a_file", "not a regular file", source=printable_name(path))
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError("not_found", "no such file", source=printable_name(path))
    if isinstance(error, PermissionError):
        return InputError(
            "permission", "this user may not read the file", source=printable_name(path)
        )
    reason = error.strerror or type(error).__name__
    return InputError("corrupt", f"cannot be read: {reason}", source=printable_name(path))


def content_key(
    item: MultimodalInput, role: Role, *, numerics: str = "", digest: Digest = hash_file
) -> str:
    """sha256 over everything of an item that can change its vector under one model, 64 hex.

    Fields are typed and length-prefixed, so no two different items share a byte string: pictures
    of the same bytes and another shape, palette or mode differ, and so does the same text beside
    another video. Media files count by their content, never by path or date; a password does not
    count, since it does not change what a page shows.

    Args:
        numerics: how the model computes (`identity.numerics`), where vectors of several dtypes
            or kernels may be kept together.
        digest: sha256 hex of a file; to give when files are already hashed.

    Raises:
        InputError: a file that cannot be read, a broken `PIL.Image`, or `forbidden_url`: what an
            address holds may change, so its vector must not be kept under its name.
    """
    hasher = _FieldHasher()
    hasher.text("format", "mmembed-content/1")
    hasher.text("role", role)
    if numerics:
        hasher.text("numerics", numerics)
    hasher.value("instruction", item.instruction)
    hasher.value("parts", len(item.parts))
    for part in item.parts:
        _hash_part(hasher, part, digest)
    return hasher.hexdigest()


def source_digest(source: Any, *, digest: Digest = hash_file) -> str:
    """sha256 of the content of one file, array or `PIL.Image`; errors as `content_key`."""
    hasher = _FieldHasher()
    _hash_source(hasher, source, "image", digest)
    return hasher.hexdigest()


class _FieldHasher:
    """Hashes (name, type, length, bytes) records; no field can run into the next one."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def field(self, name: str, kind: bytes, payload: bytes) -> None:
        for piece in (name.encode("ascii"), kind, payload):
            self._hash.update(struct.pack(">Q", len(piece)))
            self._hash.update(piece)

    def text(self, name: str, value: str) -> None:
        self.field(name, b"str", value.encode("utf-8", errors="surrogatepass"))

    def value(self, name: str, value: str | float | None) -> None:
        """None, text or a number; 2 and 2.0 are the same option."""
        if value is None:
            self.field(name, b"none", b"")
        elif isinstance(value, str):
            self.text(name, value)
        else:
            self.field(name, b"number", struct.pack(">d", value))

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


_NOT_OPTIONS = frozenset({"source", "text", "password"})


def _hash_part(hasher: _FieldHasher, part: Part, digest: Digest) -> None:
    hasher.text("part", type(part).__name__)
    if isinstance(part, Text):
        hasher.text("text", part.text)
        return
    for option in fields(part):
        if option.name not in _NOT_OPTIONS:
            hasher.value(option.name, getattr(part, option.name))
    kind = "pdf" if isinstance(part, Page) else type(part).__name__.lower()
    source: Any = part.source
    if isinstance(source, tuple):
        hasher.value("frames", len(source))
        for number, frame in enumerate(source):
            try:
                _hash_source(hasher, frame, kind, digest)
            except InputError as error:
                raise error.at(("frames", number)) from None
    else:
        _hash_source(hasher, source, kind, digest)


def _hash_source(hasher: _FieldHasher, source: Any, kind: str, digest: Digest) -> None:
    if isinstance(source, Path):
        hasher.text("file", digest(source))
    elif isinstance(source, bytes):
        hasher.text("file", hashlib.sha256(source).hexdigest())
    elif isinstance(source, Url):
        raise InputError(
            "forbidden_url",
            "what an address holds may change, so its vector is not kept; fetch it first",
            part=kind,
        )
    elif isinstance(source, np.ndarray):
        if source.dtype.hasobject:
            raise InputError("invalid_type", "the array holds Python objects", part=kind)
        hasher.text("array", source.dtype.str)
        hasher.text("shape", repr(source.shape))
        hasher.field("pixels", b"bytes", source.tobytes())
    else:
        _hash_picture(hasher, source, kind)


def _hash_picture(hasher: _FieldHasher, picture: Any, kind: str) -> None:
    """A `PIL.Image`: pixels and all that decides how they look."""
    try:
        pixels = picture.tobytes()
        palette = picture.getpalette(None) if picture.palette is not None else None
        orientation = picture.getexif().get(0x0112)
    except (OSError, SyntaxError, ValueError, struct.error):
        raise InputError("corrupt", "the picture's data cannot be decoded", part=kind) from None
    hasher.text("picture", picture.mode)
    hasher.text("shape", repr(picture.size))
    hasher.text("palette", f"{getattr(picture.palette, 'mode', None)} {palette}")
    hasher.text("transparency", repr(picture.info.get("transparency")))
    hasher.text("orientation", repr(orientation))
    hasher.field("pixels", b"bytes", pixels)
