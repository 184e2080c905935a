"""Which items of a call are equal, so that each is encoded once.

Texts and bytes are compared as they are; files and pictures in memory by a hash of their content,
but only those that another one of the same size, or the same middle row, stands beside: nearly
always none.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.encoder.batching import Group
from mmembed.errors import InputError
from mmembed.inputs.items import Pair
from mmembed.inputs.media import printable_name
from mmembed.store.content import Digest, hash_file, source_digest
from mmembed.types import MultimodalInput, Part, Text, Url

__all__ = ["same_source", "unique_items"]

# Of files of equal size above this one, hashing would cost more than it saves.
_MOST_BYTES = 64 * 2**20

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


def unique_items(
    items: Sequence[MultimodalInput | Pair | None], *, digest: Digest = hash_file, run: Map = map
) -> list[Group]:
    """Distinct items in order of first appearance, each with all its positions.

    Args:
        digest: hash of a file; a file for which it raises InputError equals no other.
        run: computes hashes; `map`, or that of an executor.
    """
    sides = {id(side): side for item in items if item is not None for side in _sides(item)}
    digests = _digests(sides.values(), digest, run)
    known = {name: _item_key(side, digests) for name, side in sides.items()}
    groups: dict[Hashable, Group] = {}
    for index, item in enumerate(items):
        if item is not None:
            key = tuple(known[id(side)] for side in _sides(item))
            groups.setdefault(key, (item, []))[1].append(index)
    return list(groups.values())


def same_source(
    name: str | None, first: MultimodalInput | Pair, item: MultimodalInput | Pair
) -> str | None:
    """What `item` calls the file that `first`, an equal item, calls `name`."""
    pairs = zip(*(_sources(_sides(each)) for each in (first, item)), strict=True)
    names = {
        printable_name(theirs): printable_name(own)
        for theirs, own in pairs
        if isinstance(theirs, Path) and isinstance(own, Path)
    }
    return names.get(name, name) if name is not None else None


def _sides(item: MultimodalInput | Pair) -> tuple[MultimodalInput, ...]:
    return (item.query, item.document) if isinstance(item, Pair) else (item,)


def _digests(items: Iterable[MultimodalInput], digest: Digest, run: Map) -> dict[Hashable, str]:
    """Name -> hash of the content, of sources that may be equal to another one."""
    rivals: dict[Hashable, dict[Hashable, Any]] = {}
    seen: set[Hashable] = set()
    for source in _sources(items):
        name = _source_name(source)
        if name not in seen:
            seen.add(name)
            outline = _outline(source)
            if outline is not None:
                rivals.setdefault(outline, {})[name] = source
    compared = {
        name: source
        for group in rivals.values()
        if len(group) > 1
        for name, source in group.items()
    }

    def content(source: Any) -> str | None:
        try:
            return source_digest(source, digest=digest)
        except InputError:  # opening it says why
            return None

    found = zip(compared, run(content, compared.values()), strict=True)
    return {name: value for name, value in found if value is not None}


def _sources(items: Iterable[MultimodalInput]) -> Iterator[Any]:
    for item in items:
        for part in item.parts:
            if not isinstance(part, Text):
                yield from part.source if isinstance(part.source, tuple) else (part.source,)


def _outline(source: Any) -> Hashable | None:
    """What equal sources share and can be told at once; None: is compared by name only."""
    if isinstance(source, bytes | Url):
        return None
    if isinstance(source, Path):
        try:
            status = source.stat()
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            return None
        return ("file", status.st_size)
    if isinstance(source, np.ndarray):
        if source.dtype.hasobject or not source.size:
            return None
        middle = source[len(source) // 2] if source.ndim else source
        return ("array", source.dtype.str, source.shape, middle.tobytes())
    if getattr(source, "tile", None):  # a file that is not decoded yet; threads do that
        return None
    width, height = source.size
    middle = source.crop((0, height // 2, width, height // 2 + 1))
    return ("picture", source.mode, source.size, middle.tobytes())


def _item_key(item: MultimodalInput, digests: dict[Hashable, str]) -> Hashable:
    return (item.instruction, tuple(_part_key(part, digests) for part in item.parts))


def _part_key(part: Part, digests: dict[Hashable, str]) -> Hashable:
    """The kind and all options; sources by content where it is known, else by name."""
    if isinstance(part, Text):
        return ("text", part.text)
    options = tuple(getattr(part, each.name) for each in fields(part) if each.name != "source")
    if isinstance(part.source, tuple):
        names = tuple(map(_source_name, part.source))
        return (type(part), options, "frames", tuple(digests.get(name, name) for name in names))
    name = _source_name(part.source)
    return (type(part), options, digests.get(name, name))


def _source_name(source: Any) -> Hashable:
    """Tells sources apart without opening them; objects in memory by identity."""
    if isinstance(source, bytes):
        return ("bytes", source)
    if isinstance(source, Path):
        return ("path", str(source))
    if isinstance(source, Url):
        return ("url", source.url)
    return ("object", id(source))
