"""Items as JSON: what `row_files` reads and `row_writer` writes.

A text alone is a string. Everything else is a dict that `MultimodalInput.of` reads back to an equal
item; media are paths relative to the file, and what is only in memory becomes a file beside it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mmembed.errors import InputError
from mmembed.inputs.images import image_format
from mmembed.inputs.item_files import beside
from mmembed.sources import kind_of_suffix, media_source, sniff_media
from mmembed.store.content import hash_file
from mmembed.store.durable import write_atomically
from mmembed.types import (
    ITEM_KEYS,
    Image,
    MultimodalInput,
    Page,
    Part,
    Text,
    Url,
    Video,
)

__all__ = [
    "MediaFolder",
    "MediaMode",
    "cell_of_item",
    "checked_text",
    "item_of_cell",
    "item_of_json",
    "item_to_json",
    "media_suffix",
    "shown",
]

MediaMode: TypeAlias = Literal["reference", "copy"]

_ACCEPTED = "a text, or an object with text, image, video, pdf or content"


def item_of_json(value: Any, folder: Path) -> MultimodalInput:
    """The item that a value of JSON describes, with relative media taken from `folder`.

    Raises:
        InputError: it describes none.
    """
    if type(value) is str:
        return MultimodalInput((Text(checked_text(value)),))
    if not isinstance(value, dict | list):
        raise InputError("invalid_type", f"found {shown(value)}; an item is {_ACCEPTED}")
    item = MultimodalInput.of(value)
    for part in item.parts:
        if isinstance(part, Text):
            checked_text(part.text)
    return beside(folder, item)


def item_of_cell(value: Any, folder: Path) -> MultimodalInput:
    """The item of a cell of parquet or arrow: a text, JSON of a dict, or embedded media.

    A string that is an object of JSON whose keys are all those of items is that item; any other
    string is text.
    """
    if isinstance(value, str):
        return item_of_json(_object_in(value) or value, folder)
    if isinstance(value, bytes) or _is_embedded(value):
        source = _embedded_source(value, folder)
        if isinstance(source, Path):
            return MultimodalInput.of(source)
        kind = sniff_media(source[:1024])
        if kind is None:
            raise InputError("unsupported_format", f"{len(source):,} bytes of no known format")
        return MultimodalInput.of({kind: source})
    if isinstance(value, dict):
        value = {
            key: _embedded_source(cell, folder) if _is_embedded(cell) else cell
            for key, cell in value.items()
            if cell is not None
        }
    return item_of_json(value, folder)


def cell_of_item(value: Any) -> str:
    """What `item_of_cell` reads back to the item of this JSON."""
    if isinstance(value, str):
        return json.dumps({"text": value}, ensure_ascii=False) if _object_in(value) else value
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _object_in(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value and set(value) <= ITEM_KEYS else None


def _is_embedded(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and set(value) <= {"bytes", "path"}


def _embedded_source(value: Any, folder: Path) -> Path | bytes:
    """The medium of a cell: bytes, or `{"bytes": ..., "path": ...}` as the hub's tables have."""
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if isinstance(content, bytes) and content:
        return content
    path = value.get("path") if isinstance(value, Mapping) else None
    if not isinstance(path, str) or not path:
        raise InputError("empty", "neither bytes nor a path of a medium")
    return folder / path


def checked_text(text: str) -> str:
    """Half a surrogate pair can be written in JSON and nowhere else."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError(
                "invalid_text", "half of a surrogate pair: a text that is not Unicode", part="text"
            ) from None
    return text


def shown(value: Any, most: int = 80) -> str:
    """What a message says of a value: its type and its beginning."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= most else text[:most] + '...'}"


class MediaFolder:
    """Where the media of a file of rows are, for those who write it.

    Args:
        folder: of the file of rows. What is in memory is written to `folder/media`, once, under
            the sha256 of its bytes.
        mode: `copy` copies files there, too; `reference` names them where they are.
    """

    def __init__(self, folder: Path, mode: MediaMode = "reference") -> None:
        self.folder = folder
        self._copies = mode == "copy"
        self._inside = _absolute(folder)
        self._real = folder.resolve()
        self._copied: dict[Path, str] = {}

    def name(self, source: Any) -> str:
        """What a row says of a medium: a path relative to the folder where it can be, or a URL.

        Raises:
            InputError: a file to copy is not there, or a picture cannot be written.
        """
        if isinstance(source, Url):
            if media_source(source.url, "item") != source:
                raise InputError("forbidden_url", "an address that is not http or https")
            return source.url
        if isinstance(source, Path):
            path = _absolute(source)
            return self._copy(path) if self._copies else self._relative(path)
        content = source if isinstance(source, bytes) else _png(source)
        return self._store(content)

    def _store(self, content: bytes) -> str:
        name = f"media/{hashlib.sha256(content).hexdigest()}{media_suffix(content[:1024])}"
        target = self.folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, content)
        return name

    def _copy(self, path: Path) -> str:
        known = self._copied.get(path)
        if known is None:
            try:
                digest = hash_file(path)
                with path.open("rb") as file:
                    suffix = media_suffix(file.read(1024))
            except InputError as error:
                raise InputError(error.code, f"{path}: {error.detail}") from None
            suffix = path.suffix.lower() if suffix == ".bin" else suffix
            if kind_of_suffix(Path(f"_{suffix}")) is None:
                raise InputError(
                    "unsupported_format", f"{path}: neither a picture nor a clip nor a PDF file"
                )
            known = f"media/{digest}{suffix}"
            target = self.folder / known
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
                shutil.copyfile(path, temporary)
                temporary.replace(target)
            self._copied[path] = known
        return known

    def _relative(self, path: Path) -> str:
        if path.is_relative_to(self._inside):
            name = path.relative_to(self._inside).as_posix()
        elif path.parts[:2] == self._real.parts[:2]:  # else they have only the root in common
            name = Path(os.path.relpath(path, self._real)).as_posix()
        else:
            return path.as_posix()
        return f"./{name}" if _LIKE_A_SCHEME.match(name) else name


def _absolute(path: Path) -> Path:
    """Through links as they are written, unless `..` goes back over one."""
    path = Path.cwd() / path
    return path.resolve() if ".." in path.parts else path


_LIKE_A_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]*:")


def item_to_json(item: MultimodalInput, media: MediaFolder) -> str | dict[str, Any]:
    """The item as JSON: what `item_of_json(..., media.folder)` reads back to an equal one.

    Pictures and clips in memory come back as paths of files with the same content.

    Raises:
        InputError: nothing can be written that reads back to it.
    """
    parts = item.parts
    if not parts:
        raise InputError("empty", "the item has no parts")
    first = parts[0]
    if isinstance(first, Text) and len(parts) == 1 and item.instruction is None:
        return first.text
    written: dict[str, Any]
    if len(parts) == 1:
        written = _part_to_json(first, media)
    elif len(parts) == 2 and not isinstance(first, Text) and isinstance(parts[1], Text):
        written = {**_part_to_json(first, media), "text": parts[1].text}
    else:
        entries = [_part_to_json(part, media) for part in parts]
        written = {"content": [_bare(entry) for entry in entries]}
    if item.instruction is not None:
        written["instruction"] = item.instruction
    return written


def _bare(entry: dict[str, Any]) -> Any:
    return entry["text"] if set(entry) == {"text"} else entry


_KINDS = {Image: "image", Video: "video", Page: "pdf"}


def _part_to_json(part: Part, media: MediaFolder) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"text": part.text}
    source: Any = part.source
    if isinstance(source, tuple):
        if all(isinstance(frame, Path) and kind_of_suffix(frame) == "video" for frame in source):
            raise InputError(
                "no_frames", "a list of frames that are video files, or of none", part="video"
            )
        written: Any = [media.name(frame) for frame in source]
    else:
        written = media.name(source)
    options = {option.name: getattr(part, option.name) for option in fields(part)}
    del options["source"]
    if options.get("sampling") == "uniform":
        del options["sampling"]
    given = {name: value for name, value in options.items() if value is not None}
    return {_KINDS[type(part)]: written, **given}


def _png(picture: Any) -> bytes:
    """A picture without loss, with its orientation.

    Raises:
        InputError: neither a picture nor an array that is one.
    """
    from PIL import Image as Pictures

    try:
        opened = picture if isinstance(picture, Pictures.Image) else Pictures.fromarray(picture)
        buffer = io.BytesIO()
        opened.save(buffer, "PNG", exif=opened.getexif())
    except (OSError, TypeError, ValueError, SyntaxError, KeyError, AttributeError):
        raise InputError(
            "invalid_type", f"{type(picture).__name__} cannot be written as PNG", part="image"
        ) from None
    return buffer.getvalue()


_SUFFIX_OF_FORMAT = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "WEBP": ".webp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "AVIF": ".avif",
    "BMP": ".bmp",
}
_CLIPS = (
    (b"\x1a\x45\xdf\xa3", ".mkv"),
    (b"OggS", ".ogv"),
    (b"FLV\x01", ".flv"),
    (b"\0\0\x01\xba", ".mpg"),
    (b"\0\0\x01\xb3", ".mpg"),
    (b"RIFF", ".avi"),
    (b"G", ".ts"),
)


def media_suffix(head: bytes) -> str:
    """What a file that begins like this is called; `.bin` when nobody knows."""
    kind = sniff_media(head)
    if kind == "pdf":
        return ".pdf"
    if kind == "image":
        return _SUFFIX_OF_FORMAT.get(image_format(head) or "", ".bin")
    if kind == "video":
        if head[4:8] == b"ftyp":
            return ".mov" if head[8:12] == b"qt  " else ".mp4"
        return next((suffix for magic, suffix in _CLIPS if head.startswith(magic)), ".mov")
    return ".bin"
