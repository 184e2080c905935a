"""Which items run together: once each, in bounded windows, sorted by length, by token budget."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmembed.errors import InputError
from mmembed.inputs.items import Pair, PreparedItem
from mmembed.types import Image, MultimodalInput, Page, Part, Text, Url

__all__ = ["Window", "batches", "unique_items", "windows"]

# Bounds the memory of prepared items: a window holds so many texts, or fewer media.
_WINDOW_WEIGHT = 4096
_WEIGHTS = {Text: 1, Image: 32}
_MEDIA_WEIGHT = 128


@dataclass
class Window:
    """Unique items prepared together; `indices[i]` are the caller's positions of `items[i]`."""

    items: list[MultimodalInput | Pair]
    indices: list[list[int]]

    @property
    def end(self) -> int:
        """One past the highest first position: every earlier item has been seen."""
        return max(indices[0] for indices in self.indices) + 1


def unique_items(
    items: Sequence[MultimodalInput | Pair | None],
) -> list[tuple[MultimodalInput | Pair, list[int]]]:
    """Distinct items in order of first appearance, each with all its positions."""
    groups: dict[Hashable, tuple[MultimodalInput | Pair, list[int]]] = {}
    known: dict[int, Hashable] = {}  # by identity: one query stands in many pairs
    for index, item in enumerate(items):
        if item is not None:
            sides = (item.query, item.document) if isinstance(item, Pair) else (item,)
            for side in sides:
                if id(side) not in known:
                    known[id(side)] = _item_key(side)
            key = tuple(known[id(side)] for side in sides)
            groups.setdefault(key, (item, []))[1].append(index)
    return list(groups.values())


def windows(groups: Sequence[tuple[MultimodalInput | Pair, list[int]]]) -> Iterator[Window]:
    """Consecutive windows of bounded weight."""
    window, weight = Window([], []), 0
    for item, indices in groups:
        cost = sum(_WEIGHTS.get(type(part), _MEDIA_WEIGHT) for part in item.parts)
        if window.items and weight + cost > _WINDOW_WEIGHT:
            yield window
            window, weight = Window([], []), 0
        window.items.append(item)
        window.indices.append(indices)
        weight += cost
    if window.items:
        yield window


def batches(
    prepared: Sequence[PreparedItem | InputError], *, batch_tokens: int, batch_size: int | None
) -> Iterator[list[tuple[int, PreparedItem]]]:
    """Items that run together, each with its position: longest first, equal lengths side by side.

    A single item above the budget runs alone. Longest first, so that running out of memory shows
    at once and not in the last batch.
    """
    usable = [(i, item) for i, item in enumerate(prepared) if isinstance(item, PreparedItem)]
    usable.sort(key=lambda pair: (pair[1].num_tokens, pair[1].cost, -pair[0]), reverse=True)
    batch: list[tuple[int, PreparedItem]] = []
    spent = 0
    for position, item in usable:
        if batch and (spent + item.cost > batch_tokens or len(batch) == batch_size):
            yield batch
            batch, spent = [], 0
        batch.append((position, item))
        spent += item.cost
    if batch:
        yield batch


def _item_key(item: MultimodalInput) -> Hashable:
    return (item.instruction, tuple(_part_key(part) for part in item.parts))


def _part_key(part: Part) -> Hashable:
    """Equal keys mean equal content within this call; objects in memory count by identity."""
    if isinstance(part, Text):
        return ("text", part.text)
    options: tuple[Any, ...]
    if isinstance(part, Image):
        options = (part.min_tokens, part.max_tokens)
    elif isinstance(part, Page):
        options = (part.pages, part.password, part.max_tokens)
    else:
        options = (part.fps, part.num_frames, part.start, part.end, part.max_tokens)
    source = part.source
    frames = source if isinstance(source, tuple) else (source,)
    return (type(part).__name__, options, tuple(_source_key(frame) for frame in frames))


def _source_key(source: Any) -> Hashable:
    if isinstance(source, bytes):
        return ("bytes", hashlib.sha256(source).digest())
    if isinstance(source, Path):
        return ("path", str(source))
    if isinstance(source, Url):
        return ("url", source.url)
    return ("object", id(source))
