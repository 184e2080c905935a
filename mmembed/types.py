"""The vocabulary of mmembed: what an item is. Torch-free; nothing here opens or decodes media.

Everything else is written in these words: adapters produce them, `inputs/` turns them into
tensors, losses and metrics only ever see their ids and labels.

A plain `str` is always text and is never guessed to be a path or a URL. Media come in as typed
values (`pathlib.Path`, `PIL.Image`, `bytes` under a key, ...) or under the keys of a dict.
"""

from __future__ import annotations

import base64
import binascii
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from mmembed.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as PILImage

__all__ = [
    "MEDIA_SUFFIXES",
    "ContrastiveExample",
    "Image",
    "ImageSource",
    "MediaSource",
    "MultimodalInput",
    "Page",
    "Part",
    "RetrievalTask",
    "Role",
    "Task",
    "Text",
    "Url",
    "Video",
    "sniff_media",
]

Role = Literal["query", "document"]
Task = Literal["retrieval", "classification", "clustering", "sts", "qa", "grounding"]
Modality = Literal["text", "image", "video", "pdf"]


@dataclass(frozen=True)
class Url:
    """A media address. Only fetched when the media policy allows URLs."""

    url: str


MediaSource: TypeAlias = "Path | bytes | Url"
ImageSource: TypeAlias = "Path | bytes | Url | PILImage | np.ndarray"


@dataclass(frozen=True)
class Text:
    """A piece of text. Special-token strings in it are plain characters."""

    text: str


@dataclass(frozen=True)
class Image:
    """One picture. Arrays are uint8 (height, width, 3 | 4) or (height, width), row 0 at the top.

    `min_tokens` / `max_tokens` bound the visual tokens of this picture and override the model's.
    """

    source: ImageSource
    min_tokens: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class Video:
    """A video file, or a list of frames in time order.

    Args:
        source: a file, or a tuple of image sources.
        fps: sample this many frames a second (mutually exclusive with `num_frames`).
        num_frames: sample this many frames, evenly in time, first and last included.
        start, end: seconds; the part of the clip that is used.
        max_tokens: upper bound of visual tokens for each frame; overrides the model's.
    """

    source: MediaSource | tuple[ImageSource, ...]
    fps: float | None = None
    num_frames: int | None = None
    start: float | None = None
    end: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class Page:
    """One or more pages of a PDF, each rendered to a picture.

    `pages` is 1-based like a reader's page numbers: `"3"`, `"1-5"`, `"1,4-6"`; None means all.
    """

    source: MediaSource
    pages: str | None = None
    password: str | None = None
    max_tokens: int | None = None


Part: TypeAlias = Text | Image | Video | Page

_MEDIA_KEYS = ("video", "image", "pdf", "page")
_ITEM_KEYS = frozenset(
    "text image video pdf page pages instruction fps num_frames start end password "
    "min_tokens max_tokens content".split()
)
_OPTIONS: dict[str, tuple[str, ...]] = {
    "image": ("min_tokens", "max_tokens"),
    "video": ("fps", "num_frames", "start", "end", "max_tokens"),
    "pdf": ("pages", "password", "max_tokens"),
    "page": ("pages", "password", "max_tokens"),
}


@dataclass(frozen=True)
class MultimodalInput:
    """One item to embed: parts in prompt order, and an optional instruction for this item."""

    parts: tuple[Part, ...]
    instruction: str | None = None

    @classmethod
    def of(cls, item: Any, instruction: str | None = None) -> MultimodalInput:
        """Build an item from what users have at hand.

        Accepted: `str` (always text), `PIL.Image`, uint8 array, `pathlib.Path` (its content
        decides what it is), a part, a `MultimodalInput`, a dict with the keys `text`, `image`,
        `video`, `pdf` / `page` and options, `{"content": [...]}`, a list of parts, or a list of
        chat messages. In a dict the order is videos, images, pages, text (vision first, as the
        backbones were trained); use `content` to set another order.

        Raises:
            InputError: `invalid_type` or `empty`, saying which value and what is accepted.
        """
        built = cls(*_parse_item(item))
        return built if instruction is None else replace(built, instruction=instruction)

    @property
    def modality(self) -> str:
        """`text`, `image`, `video`, `pdf`, or a sorted mix such as `image+text`."""
        names = {Text: "text", Image: "image", Video: "video", Page: "pdf"}
        return "+".join(sorted({names[type(part)] for part in self.parts}))


@dataclass(frozen=True)
class ContrastiveExample:
    """One training row: a query, its positives and its own hard negatives.

    `positive_ids` name the documents' *content*: two rows with the same id have the same document,
    and neither is a negative of the other. `label` is a class name; `scores` are graded
    similarities or teacher scores, one for each positive then each hard negative.
    """

    query: MultimodalInput
    positives: tuple[MultimodalInput, ...]
    hard_negatives: tuple[MultimodalInput, ...] = ()
    task: Task = "retrieval"
    query_id: str = ""
    positive_ids: tuple[str, ...] = ()
    label: str | None = None
    scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class RetrievalTask:
    """A retrieval test: every query is ranked against the whole corpus.

    `relevant[query_id]` maps document ids to a positive grade; ids absent from it are irrelevant.
    """

    name: str
    queries: Mapping[str, MultimodalInput]
    corpus: Mapping[str, MultimodalInput]
    relevant: Mapping[str, Mapping[str, float]]
    query_instruction: str | None = None
    document_instruction: str | None = None


# -- parsing ----------------------------------------------------------------------------------

_ACCEPTED = (
    "str (text), PIL.Image, uint8 array, pathlib.Path, a dict with text / image / video / pdf / "
    "page, {'content': [...]}, or a list of parts or chat messages"
)


def _invalid(value: Any, accepted: str = _ACCEPTED, *, part: str = "item") -> InputError:
    return InputError(
        "invalid_type", f"got {type(value).__name__}; accepted: {accepted}", part=part
    )


def _parse_item(item: Any) -> tuple[tuple[Part, ...], str | None]:
    if isinstance(item, MultimodalInput):
        return item.parts, item.instruction
    if isinstance(item, Text | Image | Video | Page):
        return (item,), None
    if isinstance(item, str):
        return (Text(item),), None
    if isinstance(item, Path):
        return (_part_of_path(item),), None
    if _is_picture(item):
        return (Image(item),), None
    if isinstance(item, Mapping):
        if "role" in item:
            return _parse_messages([item])
        return _parse_mapping(item)
    if isinstance(item, list | tuple):
        if item and all(isinstance(entry, Mapping) and "role" in entry for entry in item):
            return _parse_messages(item)
        return _parse_content(item), None
    raise _invalid(item)


def _parse_mapping(item: Mapping[str, Any]) -> tuple[tuple[Part, ...], str | None]:
    unknown = sorted(str(key) for key in item if key not in _ITEM_KEYS)
    if unknown:
        raise InputError(
            "invalid_type",
            f"unknown key {', '.join(map(repr, unknown))}; known: {', '.join(sorted(_ITEM_KEYS))}",
        )
    instruction = item.get("instruction")
    if instruction is not None and not isinstance(instruction, str):
        raise _invalid(instruction, "str or None as instruction")
    if "content" in item:
        mixed = sorted(set(item) - {"content", "instruction"})
        if mixed:
            raise InputError(
                "invalid_type", f"'content' cannot be combined with {', '.join(mixed)}"
            )
        content = item["content"]
        content = [content] if isinstance(content, str | Mapping) else content
        return _parse_content(content), instruction

    parts: list[Part] = []
    consumed: set[str] = {"text", "instruction"}
    for kind in _MEDIA_KEYS:
        value = item.get(kind)
        if value is None:
            continue
        options = {name: item[name] for name in _OPTIONS[kind] if item.get(name) is not None}
        if kind == "page" and isinstance(value, int):
            # {"pdf": file, "page": 3}: the page number of the file beside it
            continue
        if kind == "pdf" and isinstance(item.get("page"), int):
            if "pages" in options:
                raise InputError("invalid_type", "give 'page' or 'pages', not both", part="pdf")
            options["pages"] = str(item["page"])
        consumed.update(_OPTIONS[kind], _MEDIA_KEYS)
        parts.extend(_media_parts(kind, value, options))
    text = item.get("text")
    if text is not None:
        for piece in text if isinstance(text, list | tuple) else [text]:
            if not isinstance(piece, str):
                raise _invalid(piece, "str or list of str", part="text")
            parts.append(Text(piece))
    idle = sorted(key for key in item if key not in consumed and item[key] is not None)
    if idle:
        raise InputError("invalid_type", f"option {', '.join(idle)} has no media to apply to")
    if not parts:
        raise InputError("empty", "the dict names neither text nor media")
    return tuple(parts), instruction


def _media_parts(kind: str, value: Any, options: dict[str, Any]) -> list[Part]:
    """Parts of one key. A list holds several media, except that a list of pictures is one video."""
    if isinstance(value, Image | Video | Page):
        return [value]
    if kind == "video" and isinstance(value, list | tuple):
        if not value:
            raise InputError("no_frames", "the list of frames is empty", part="video")
        frames = tuple(_image_source(frame) for frame in value)
        if all(_names_video(frame) for frame in frames):
            return [Video(frame, **options) for frame in frames]  # type: ignore[arg-type]
        return [Video(frames, **options)]
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise InputError("empty", f"the list under {kind!r} is empty", part=kind)
    if kind == "image":
        return [Image(_image_source(entry), **options) for entry in values]
    if kind == "video":
        return [Video(_media_source(entry, "video"), **options) for entry in values]
    if "pages" in options and not isinstance(options["pages"], str):
        pages = options["pages"]
        pages = pages if isinstance(pages, Iterable) else [pages]
        options = {**options, "pages": ",".join(str(page) for page in pages)}
    return [Page(_media_source(entry, "pdf"), **options) for entry in values]


def _parse_content(content: Any) -> tuple[Part, ...]:
    if not isinstance(content, list | tuple):
        raise _invalid(content, "a list of parts")
    parts: list[Part] = []
    for entry in content:
        if isinstance(entry, Mapping) and "type" in entry:
            parts.extend(_parse_typed_entry(entry))
        else:
            inner, instruction = _parse_item(entry)
            if instruction is not None:
                raise InputError("invalid_type", "instruction belongs to the item, not to a part")
            parts.extend(inner)
    if not parts:
        raise InputError("empty", "the content list has no parts")
    return tuple(parts)


def _parse_typed_entry(entry: Mapping[str, Any]) -> tuple[Part, ...]:
    kind = str(entry["type"])
    value: dict[str, Any] = {key: entry[key] for key in entry if key != "type"}
    for media in ("image", "video"):
        if kind == f"{media}_url":  # the chat-completions spelling
            nested = value.pop(f"{media}_url", None)
            value[media] = nested.get("url") if isinstance(nested, Mapping) else nested
            kind = media
    if kind not in {"text", *_MEDIA_KEYS} or value.get(kind) is None:
        raise InputError(
            "invalid_type",
            f"content entry of type {kind!r} needs a value under the key of its type; "
            "known types: text, image, image_url, video, video_url, pdf, page",
        )
    return _parse_mapping(value)[0]


def _parse_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[tuple[Part, ...], str | None]:
    parts: list[Part] = []
    instruction: str | None = None
    for message in messages:
        content = message.get("content")
        content = [content] if isinstance(content, str | Mapping) else content
        if content is None:
            raise InputError("empty", "a chat message has no content")
        if message["role"] == "system":
            pieces = _parse_content(content)
            if not all(isinstance(piece, Text) for piece in pieces):
                raise InputError("invalid_type", "a system message may only hold text")
            instruction = "".join(piece.text for piece in pieces if isinstance(piece, Text))
        elif message["role"] == "user":
            parts.extend(_parse_content(content))
        else:
            raise InputError(
                "invalid_type",
                f"a chat message of role {message['role']!r}; an embedding reads only system "
                "(as the instruction) and user",
            )
    if not parts:
        raise InputError("empty", "the chat has no user content")
    return tuple(parts), instruction


def _is_picture(value: Any) -> bool:
    """PIL image or array, without importing PIL or numpy for people who use neither."""
    modules = {base.__module__.split(".")[0] for base in type(value).__mro__}
    return "PIL" in modules or ("numpy" in modules and hasattr(value, "ndim"))


def _image_source(value: Any) -> ImageSource:
    return value if _is_picture(value) else _media_source(value, "image")


_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.\-]{1,20}):")


def _media_source(value: Any, part: str) -> MediaSource:
    """A path, bytes, data-URI or URL under a media key. Schemes are case-insensitive."""
    if isinstance(value, Path | bytes | Url):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str):
        raise _invalid(value, "path, bytes, data-URI or URL", part=part)
    match = _SCHEME.match(value)
    scheme = match.group(1).lower() if match else ""
    if scheme in {"http", "https"}:
        return Url(value)
    if scheme == "data":
        return _decode_data_uri(value, part)
    if scheme == "file":
        return Path(unquote(urlsplit(value).path))
    if scheme and "://" in value[:40]:
        raise InputError(
            "forbidden_url",
            f"scheme {scheme!r}; allowed: http, https, data, file, or a plain path",
            part=part,
        )
    if not value:
        raise InputError("empty", "the path is an empty string", part=part)
    return Path(value)


def _decode_data_uri(uri: str, part: str) -> bytes:
    header, comma, payload = uri[5:].partition(",")
    if not comma:
        raise InputError("corrupt", "the data-URI has no comma", part=part, source="data-URI")
    if not header.lower().endswith(";base64"):
        return unquote(payload).encode("latin-1", errors="replace")
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InputError(
            "corrupt", "the data-URI is not valid base64", part=part, source="data-URI"
        ) from None


MEDIA_SUFFIXES: dict[str, Modality] = {
    **dict.fromkeys("png jpg jpeg jfif webp gif bmp tif tiff avif".split(), "image"),
    **dict.fromkeys("mp4 m4v mov mkv webm avi ts mts mpg mpeg ogv flv wmv 3gp".split(), "video"),
    "pdf": "pdf",
}


def sniff_media(head: bytes) -> Modality | None:
    """What the first bytes of a file (1,024 are enough) say it is; None when unknown."""
    if b"%PDF-" in head[:1024]:
        return "pdf"
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")):
        return "image"
    if head[:4] == b"RIFF":
        return {b"WEBP": "image", b"AVI ": "video"}.get(head[8:12])  # type: ignore[return-value]
    if head[:2] == b"BM" and len(head) > 26:
        return "image"
    if head[4:8] == b"ftyp":
        return "image" if head[8:12] in {b"avif", b"avis"} else "video"
    if head[4:8] in {b"moov", b"mdat", b"wide", b"free", b"skip"}:
        return "video"
    if head.startswith((b"\x1a\x45\xdf\xa3", b"OggS", b"FLV\x01", b"\0\0\x01\xba", b"\0\0\x01\xb3")):
        return "video"
    if head[:1] == b"G" and (len(head) <= 188 or head[188:189] == b"G"):
        return "video"  # MPEG-TS: a sync byte every 188 bytes
    return None


def _names_video(source: ImageSource) -> bool:
    return isinstance(source, Path) and MEDIA_SUFFIXES.get(source.suffix[1:].lower()) == "video"


def _part_of_path(path: Path) -> Part:
    """Content decides; the suffix only when the file cannot be read (opening it reports why)."""
    found: Modality | None = None
    try:
        if stat.S_ISREG(path.stat().st_mode):
            with path.open("rb") as file:
                found = sniff_media(file.read(1024))
    except (OSError, ValueError):
        pass
    found = found or MEDIA_SUFFIXES.get(path.suffix[1:].lower())
    if found == "video":
        return Video(path)
    if found == "pdf":
        return Page(path)
    return Image(path)
