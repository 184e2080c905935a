"""The vocabulary of mmembed: what an item is. Torch-free; nothing here opens or decodes media.

Everything else is written in these words: adapters produce them, `inputs/` turns them into
tensors, losses and metrics only ever see their ids and labels.

A plain `str` is always text and is never guessed to be a path or a URL. Media come in as typed
values (`pathlib.Path`, `PIL.Image`, `bytes` under a key, ...) or under the keys of a dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mmembed.errors import InputError
from mmembed.sources import (
    MEDIA_SUFFIXES,
    ImageSource,
    MediaSource,
    Url,
    image_source,
    invalid_type,
    is_picture,
    kind_of_suffix,
    media_kind,
    media_source,
    page_numbers,
    plain_option,
)

__all__ = [
    "MEDIA_SUFFIXES",
    "ContrastiveExample",
    "Image",
    "ImageSource",
    "MediaSource",
    "MultimodalInput",
    "Page",
    "Part",
    "Role",
    "Task",
    "Text",
    "Url",
    "Video",
]

Role = Literal["query", "document"]
Task = Literal["retrieval", "classification", "clustering", "sts", "qa", "grounding"]


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
    """A video file, or a tuple of frames in time order.

    Args:
        fps: sample this many frames a second (mutually exclusive with `num_frames`).
        num_frames: sample this many frames, evenly in time, first and last included.
        sampling: `keyframes` takes instead of each frame the key frame of the file nearest to it,
            each once. Several times faster; other, and maybe fewer, frames give other vectors.
        start, end: seconds; the part of the clip that is used.
        max_tokens: upper bound of visual tokens for each frame; overrides the model's.
    """

    source: MediaSource | tuple[ImageSource, ...]
    fps: float | None = None
    num_frames: int | None = None
    sampling: Literal["uniform", "keyframes"] = "uniform"
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
ITEM_KEYS = frozenset(
    "text image video pdf page pages instruction fps num_frames sampling start end password "
    "min_tokens max_tokens content".split()
)
_OPTIONS: dict[str, tuple[str, ...]] = {
    "image": ("min_tokens", "max_tokens"),
    "video": ("fps", "num_frames", "sampling", "start", "end", "max_tokens"),
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
        try:
            parts, own_instruction = _parse_item(item)
        except RecursionError:
            raise InputError("invalid_type", "the item is nested too deeply") from None
        instruction = own_instruction if instruction is None else instruction
        if instruction is not None and not isinstance(instruction, str):
            raise invalid_type(instruction, "str or None as instruction")
        if not parts:
            raise InputError("empty", "the item has no parts")
        return cls(tuple(map(_checked, parts)), instruction)

    @property
    def modality(self) -> str:
        """`text`, `image`, `video`, `pdf`, or a sorted mix such as `image+text`."""
        names = {Text: "text", Image: "image", Video: "video", Page: "pdf"}
        return "+".join(sorted({names[type(part)] for part in self.parts}))


@dataclass(frozen=True)
class ContrastiveExample:
    """One training row: a query, its positives and its own hard negatives.

    `positive_ids` name the documents' *content*: two rows with the same id have the same document,
    and neither is a negative of the other. `label` is the class of the query and its positives,
    `negative_labels` are those of the hard negatives; `scores` are graded similarities or teacher
    scores, one for each positive then each hard negative.
    """

    query: MultimodalInput
    positives: tuple[MultimodalInput, ...]
    hard_negatives: tuple[MultimodalInput, ...] = ()
    task: Task = "retrieval"
    query_id: str = ""
    positive_ids: tuple[str, ...] = ()
    label: str | None = None
    negative_labels: tuple[str, ...] = ()
    scores: tuple[float, ...] | None = None


_ACCEPTED = (
    "str (text), PIL.Image, uint8 array, pathlib.Path, a dict with text / image / video / pdf / "
    "page, {'content': [...]}, or a list of parts or chat messages"
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
    if is_picture(item):
        return (Image(item),), None
    if isinstance(item, Mapping):
        if "role" in item:
            return _parse_messages([item])
        return _parse_mapping(item)
    if isinstance(item, list | tuple):
        if item and all(isinstance(entry, Mapping) and "role" in entry for entry in item):
            return _parse_messages(item)
        return _parse_content(item), None
    raise invalid_type(item, _ACCEPTED)


def _parse_mapping(item: Mapping[str, Any]) -> tuple[tuple[Part, ...], str | None]:
    unknown = sorted(str(key) for key in item if key not in ITEM_KEYS)
    if unknown:
        raise InputError(
            "invalid_type",
            f"unknown key {', '.join(map(repr, unknown))}; known: {', '.join(sorted(ITEM_KEYS))}",
        )
    instruction = item.get("instruction")
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
        if kind == "page" and isinstance(value, Integral):
            # {"pdf": file, "page": 3}: the page number of the file beside it
            continue
        if kind == "pdf" and isinstance(item.get("page"), Integral):
            if "pages" in options:
                raise InputError("invalid_type", "give 'page' or 'pages', not both", part="pdf")
            options["pages"] = item["page"]
            consumed.add("page")
        consumed.update(_OPTIONS[kind], {kind})
        parts.extend(_media_parts(kind, value, options))
    text = item.get("text")
    if text is not None:
        for piece in text if isinstance(text, list | tuple) else [text]:
            if not isinstance(piece, str):
                raise invalid_type(piece, "str or list of str", part="text")
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
        if options or not isinstance(value, {"image": Image, "video": Video}.get(kind, Page)):
            found = ", ".join([f"{type(value).__name__} under {kind!r}", *options])
            allowed = "a part of that kind, with its options inside"
            raise InputError("invalid_type", f"{found}; allowed: {allowed}", part=kind)
        return [value]
    if kind == "video" and isinstance(value, list | tuple):
        if not value:
            raise InputError("no_frames", "the list of frames is empty", part="video")
        frames = tuple(_frame(number, frame) for number, frame in enumerate(value))
        if all(_names_video(frame) for frame in frames):
            return [Video(frame, **options) for frame in frames]  # type: ignore[arg-type]
        return [Video(frames, **options)]
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise InputError("empty", f"the list under {kind!r} is empty", part=kind)
    if kind == "image":
        return [Image(image_source(entry), **options) for entry in values]
    if kind == "video":
        return [Video(media_source(entry, "video"), **options) for entry in values]
    if "pages" in options:
        options = {**options, "pages": page_numbers(options["pages"])}
    return [Page(media_source(entry, "pdf"), **options) for entry in values]


def _frame(number: int, frame: Any) -> ImageSource:
    try:
        return image_source(frame)
    except InputError as error:
        raise error.at(("frames", number)) from None


def _parse_content(content: Any) -> tuple[Part, ...]:
    if not isinstance(content, list | tuple):
        raise invalid_type(content, "a list of parts")
    parts: list[Part] = []
    for entry in content:
        if isinstance(entry, Mapping) and "type" in entry:
            parts.extend(_parse_typed_entry(entry))
        else:
            parts.extend(_without_instruction(*_parse_item(entry)))
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
    return _without_instruction(*_parse_mapping(value))


def _without_instruction(parts: tuple[Part, ...], instruction: str | None) -> tuple[Part, ...]:
    if instruction is not None:
        raise InputError("invalid_type", "instruction belongs to the item, not to a part")
    return parts


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
            written = [piece.text for piece in pieces if isinstance(piece, Text)]
            instruction = "".join([instruction or "", *written])
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


def _checked(part: Any) -> Part:
    """Refuse values of types that could only fail later, also in parts that the caller made."""
    if isinstance(part, Text):
        if not isinstance(part.text, str):
            raise invalid_type(part.text, "str", part="text")
        return part
    if not isinstance(part, Image | Video | Page):
        raise invalid_type(part, "Text, Image, Video or Page as a part")
    kind = "pdf" if isinstance(part, Page) else type(part).__name__.lower()
    sources = {Video: (Path, bytes, Url, tuple), Page: (Path, bytes, Url)}.get(type(part))
    if sources and not isinstance(part.source, sources):
        raise invalid_type(part.source, "Path, bytes, Url (frames: a tuple)", part=kind)
    names = [option.name for option in fields(part) if option.name != "source"]
    return replace(part, **{name: plain_option(name, getattr(part, name), kind) for name in names})


def _names_video(source: ImageSource) -> bool:
    return isinstance(source, Path) and kind_of_suffix(source) == "video"


def _part_of_path(path: Path) -> Part:
    """Content decides; the suffix only when the file cannot be read (opening it reports why)."""
    found = media_kind(path)
    if found == "video":
        return Video(path)
    if found == "pdf":
        return Page(path)
    return Image(path)
