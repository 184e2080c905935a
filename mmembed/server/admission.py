"""What may enter the queue, and what it will cost, from the items alone: nothing is opened here."""

from __future__ import annotations

from collections.abc import Sequence

from mmembed.errors import InputError
from mmembed.inputs.items import Pair
from mmembed.inputs.media import MediaPart, part_name
from mmembed.inputs.processor import InputConfig
from mmembed.server.errors import RequestError
from mmembed.server.settings import ServerSettings
from mmembed.types import Image, MultimodalInput, Page, Part, Text, Video

__all__ = ["check_count", "estimated_cost", "refusal", "shows_media"]

_BYTES_PER_TOKEN = 3  # about, of most languages
_PROMPT_TOKENS = 24
_PAGES = 4  # when a request does not say how many
_FPS_FRAMES = 32  # idem: the length of the clip is not known yet


def shows_media(item: MultimodalInput | Pair) -> bool:
    """Whether something has to be decoded."""
    return not all(isinstance(part, Text) for part in item.parts)


def check_count(items: Sequence[MultimodalInput], settings: ServerSettings) -> None:
    """Refuse a request for the number of its items.

    Raises:
        RequestError: 400, naming the limit.
    """
    if not items:
        raise RequestError(400, "empty", "the request has no items; send at least one")
    if len(items) > settings.max_items:
        raise RequestError(
            400, "too_many_items", f"{len(items):,} items; allowed: {settings.max_items:,}"
        )
    with_media = sum(map(shows_media, items))
    if with_media > settings.max_media_items:
        raise RequestError(
            400,
            "too_many_items",
            f"{with_media:,} items with pictures, clips or pages; allowed in one request: "
            f"{settings.max_media_items:,}",
        )


def refusal(item: MultimodalInput, settings: ServerSettings) -> InputError | None:
    """Why an item is not taken, if so."""
    length = len(item.instruction or "")
    if length > settings.max_instruction_chars:
        detail = f"{length:,} characters; the server takes {settings.max_instruction_chars:,}"
        return InputError("too_large", f"{detail} in an instruction", part="text")
    length += sum(len(part.text) for part in item.parts if isinstance(part, Text))
    if length > settings.max_text_chars:
        detail = f"{length:,} characters; the server takes {settings.max_text_chars:,} in an item"
        return InputError("too_large", detail, part="text")
    pictures = 0
    for part in item.parts:
        if isinstance(part, Text):
            continue
        error = _media_refusal(part, settings)
        if error is not None:
            return error
        pictures += _frames(part)
    if pictures > settings.max_frames:
        detail = f"{pictures:,} pictures or frames; the server takes {settings.max_frames}"
        return InputError("too_many_frames", f"{detail} in an item")
    return None


def estimated_cost(item: MultimodalInput | Pair, config: InputConfig) -> int:
    """Tokens of both towers, at most about; what an item costs is known once it is prepared."""
    merged = 1 if config.geometry is None else config.geometry.merge_size**2
    instruction = item.query.instruction if isinstance(item, Pair) else item.instruction
    text, visual = len(instruction or "") // _BYTES_PER_TOKEN, 0
    for part in item.parts:
        if isinstance(part, Text):
            text += len(part.text) // _BYTES_PER_TOKEN
        else:
            visual += _visual_tokens(part, config)
    return min(_PROMPT_TOKENS + text, config.max_tokens) + min(visual, config.max_tokens) * (
        1 + merged
    )


def _visual_tokens(part: Part, config: InputConfig) -> int:
    if isinstance(part, Image):
        return part.max_tokens or config.image_tokens.max
    if isinstance(part, Page):
        pages = 1 if part.pages is not None and part.pages.isdigit() else _PAGES
        return (part.max_tokens or config.page_tokens.max) * pages
    assert isinstance(part, Video)
    frames = len(part.source) if isinstance(part.source, tuple) else part.num_frames
    if frames is None and part.fps is not None:
        frames = _FPS_FRAMES
    return (part.max_tokens or config.frame_tokens.max) * (frames or config.num_frames)


def _media_refusal(part: MediaPart, settings: ServerSettings) -> InputError | None:
    kind = part_name(part)
    most = {
        "image": settings.max_image_bytes,
        "video": settings.max_video_bytes,
        "pdf": settings.max_pdf_bytes,
    }[kind]
    sources = part.source if isinstance(part.source, tuple) else (part.source,)
    for source in sources:
        if isinstance(source, bytes) and len(source) > most:
            detail = f"{len(source):,} bytes; the server takes {most:,} of this kind"
            return InputError("too_large", detail, part=kind)
    return None


def _frames(part: MediaPart) -> int:
    if isinstance(part, Video):
        return len(part.source) if isinstance(part.source, tuple) else part.num_frames or 1
    return 1
