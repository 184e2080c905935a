"""Items as cards of a page: their text and thumbnails of their media."""

from __future__ import annotations

from typing import Any

from mmembed.errors import InputError
from mmembed.html.page import Card
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import MultimodalInput, Text

__all__ = ["item_card"]

_THUMBNAIL = MediaBudget(min_pixels=28 * 28, max_pixels=112 * 112, num_frames=8)
_MAX_LETTERS = 400


def item_card(item: MultimodalInput, decoder: MediaDecoder, *, caption: str = "") -> Card:
    """Text, cut where it is long, and thumbnails; a medium that cannot be opened is said to be."""
    texts: list[str] = []
    pictures: list[Any] = []
    failures: list[str] = []
    for part in item.parts:
        if isinstance(part, Text):
            texts.append(part.text)
            continue
        try:
            pictures += decoder.decode(part, _THUMBNAIL).frames
        except InputError as error:
            named = f" ({error.source})" if error.source else ""
            failures.append(f"cannot be shown: {error.code}{named}")
    text = " ".join(texts)
    if len(text) > _MAX_LETTERS:
        text = text[:_MAX_LETTERS] + " ..."
    words = "; ".join(filter(None, [caption, *failures]))
    return Card(text=text or None, pictures=tuple(pictures), caption=words)
