"""Items of a request: strings, objects and content lists -> `MultimodalInput`.

The shapes of the dialects differ in where a list of content entries stands and in how an entry is
spelt; what an entry means is the business of `MultimodalInput.of`, which reads them once every
media value is a source. A path never gets there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmembed.errors import InputError
from mmembed.server.dialects.call import Context, checked_item
from mmembed.server.dialects.fields import refusal, shown
from mmembed.server.dialects.media import media_in_text
from mmembed.sources import MediaKind
from mmembed.types import MultimodalInput, Video

__all__ = ["content_item", "media_item", "object_item", "or_error", "text_item"]

Item = MultimodalInput | InputError

_KINDS: dict[str, MediaKind] = {"image": "image", "video": "video", "pdf": "pdf", "page": "pdf"}
_TYPES: dict[str, str] = {
    "image": "image",
    "image_url": "image",
    "image_base64": "image",
    "video": "video",
    "video_url": "video",
    "video_base64": "video",
    "pdf": "pdf",
    "page": "pdf",
    "document": "pdf",
    "document_url": "pdf",
    "document_base64": "pdf",
}
_NAMES: dict[MediaKind, str] = {"image": "an image", "video": "a video", "pdf": "a PDF"}
_IDLE = ("uuid", "cache_control")  # of entries of other services; they cannot change a vector
_MOST_PARTS = 1000


def or_error(read: Callable[[], MultimodalInput], context: Context) -> Item:
    """The item, or why it cannot be used, which is an answer of its own."""
    try:
        item = checked_item(read(), context)
    except InputError as error:
        return error
    for part in item.parts:
        source = getattr(part, "source", None)
        for each in source if isinstance(part, Video) and isinstance(source, tuple) else [source]:
            assert not isinstance(each, Path), "a path of a client would be opened"
    return item


def text_item(text: str, context: Context, *, instruction: str | None, hint: str) -> Item:
    """A plain string is text, unless it plainly is something else that was put there by mistake."""
    kind = None if context.settings.allow_url_strings else media_in_text(text)
    if kind is not None:
        return InputError(
            "invalid_text",
            f"this text looks like the address or the bytes of {_NAMES[kind]}, and would be "
            f"embedded as text. To embed the {kind} itself, send {hint.replace('KIND', kind)}",
            part="text",
        )
    return or_error(lambda: MultimodalInput.of(text, instruction), context)


def media_item(value: Any, kind: MediaKind, context: Context, instruction: str | None) -> Item:
    """One picture, clip or PDF on its own."""
    return or_error(
        lambda: MultimodalInput.of({kind: context.media.source(value, kind)}, instruction), context
    )


def object_item(
    value: Mapping[str, Any],
    context: Context,
    *,
    where: str,
    index: int | None,
    instruction: str | None,
) -> Item:
    """`{"text", "image", "video", "pdf", options}` or `{"content": [...]}`, and its instruction."""
    own = value.get("instruction")
    if own is not None and not isinstance(own, str):
        raise refusal(f"{where}.instruction", "expected a string", code="invalid_type", index=index)
    instruction = instruction if own is None else own
    if "content" in value:
        extra = sorted(key for key in value if key not in ("content", "instruction", "role"))
        if extra:
            raise refusal(
                where, f"content stands beside {shown(extra[0])}", code="invalid_type", index=index
            )
        return content_item(
            value["content"], context, where=f"{where}.content", index=index,
            instruction=instruction,
        )  # fmt: skip
    if "role" in value or "type" in value:
        return content_item([value], context, where=where, index=index, instruction=instruction)
    rest = {key: each for key, each in value.items() if key != "instruction"}
    return or_error(lambda: MultimodalInput.of(_opened(rest, context), instruction), context)


def content_item(
    content: Any, context: Context, *, where: str, index: int | None, instruction: str | None
) -> Item:
    """A content list in prompt order; a string is a list of one text.

    Raises:
        RequestError: the list is not one, or an entry has no known type.
    """
    entries = [content] if isinstance(content, str) else content
    if not isinstance(entries, list):
        raise refusal(
            where, f"expected a list of parts, found {shown(content)}",
            code="invalid_type", index=index,
        )  # fmt: skip
    if not entries or len(entries) > _MOST_PARTS:
        raise refusal(
            where, f"{len(entries)} parts; allowed: 1 to {_MOST_PARTS}", code="empty", index=index
        )
    typed = [_entry(entry, f"{where}[{at}]", index) for at, entry in enumerate(entries)]
    return or_error(
        lambda: MultimodalInput.of([_opened(entry, context) for entry in typed], instruction),
        context,
    )


def _entry(entry: Any, where: str, index: int | None) -> Mapping[str, Any]:
    """A content entry as a mapping of `MultimodalInput.of`, its media still as written."""
    if isinstance(entry, str):
        return {"text": entry}
    if not isinstance(entry, Mapping):
        raise refusal(
            where, f"expected an object, found {shown(entry)}", code="invalid_type", index=index
        )
    fields = {key: value for key, value in entry.items() if key not in _IDLE}
    if "type" not in fields:
        if {"content", "role", "instruction"} & fields.keys():
            raise refusal(where, "a part holds no content", code="invalid_type", index=index)
        return fields
    kind = fields.pop("type")
    if kind == "text" and isinstance(fields.get("text"), str):
        if len(fields) > 1:
            extra = shown(next(key for key in fields if key != "text"))
            raise refusal(where, f"unknown field {extra}", code="unknown_parameter", index=index)
        return fields
    if not isinstance(kind, str) or kind not in _TYPES or fields.get(kind) is None:
        raise refusal(
            where,
            f"a part of type {shown(kind)} needs a value under the key of its type; known types: "
            f"text, {', '.join(_TYPES)}",
            code="invalid_type",
            index=index,
        )
    value = fields.pop(kind)
    if fields.keys() & {*_KINDS, "text", "content", "role", "instruction"} - {"page"}:
        raise refusal(
            where, "a part with a type holds one medium", code="invalid_type", index=index
        )
    return {**fields, _TYPES[kind]: value}


def _opened(entry: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """The mapping with bytes or addresses under its media keys."""
    opened = dict(entry)
    for key, kind in _KINDS.items():
        value = opened.get(key)
        if value is None or (key == "page" and isinstance(value, int)):
            continue
        if isinstance(value, list):
            if len(value) > _MOST_PARTS:
                raise InputError("too_large", f"more than {_MOST_PARTS} media", part=kind)
            # a list under `video` is the frames of one clip
            inner: MediaKind = "image" if key == "video" else kind
            opened[key] = [context.media.source(each, inner) for each in value]
        else:
            opened[key] = context.media.source(value, kind)
    return opened
