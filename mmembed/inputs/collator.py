"""Prepared items -> one packed row of encoder inputs.

Packed is the only layout: all items of a batch stand in one row without padding, and `cu_seqlens`
says where each begins. So no token is computed that nobody asked for, there is no padding side,
and vision rows never need to be matched to padded rows. `encoder/attention.py` keeps the items
apart. `split` cuts a packed row into chunks, without copying it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Hashable, Sequence
from itertools import pairwise
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from mmembed.inputs.items import PreparedItem

__all__ = ["EncoderInputs", "chunk_cost", "pack", "split"]


class EncoderInputs(TypedDict):
    """B items with T tokens in all; P patch rows of V pictures in all."""

    input_ids: Tensor  # (T,) int64
    position_ids: Tensor  # (3, T) int64
    cu_seqlens: Tensor  # (B + 1,) int32, on the CPU: lengths steer Python-side grouping
    pixel_values: Tensor | None  # (P, patch_dim) uint8
    grid_thw: Tensor | None  # (V, 3) int64
    cu_pictures: Tensor  # (B + 1,) int64, on the CPU: where each item's pictures begin
    # V of them, where asked for: equal = equal pictures; None = it need not be recognised
    picture_keys: tuple[Hashable, ...] | None


def pack(
    items: Sequence[PreparedItem],
    *,
    picture_keys: bool = False,
    repeated: Collection[Hashable] = (),
) -> EncoderInputs:
    """Lay items end to end, in order. At least one item.

    Args:
        picture_keys: hash the patch rows of each picture, for `TowerCache`.
        repeated: `picture_ids` to which the same is said without hashing.
    """
    assert items
    lengths = np.array([len(item.input_ids) for item in items])
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    pictures = [0 if item.grid_thw is None else len(item.grid_thw) for item in items]
    with_pictures = [item for item in items if item.patches is not None]
    pixels = grids = None
    if with_pictures:
        pixels = torch.from_numpy(np.concatenate([item.patches for item in with_pictures]))
        grids = torch.from_numpy(np.concatenate([item.grid_thw for item in with_pictures]))
    keys: tuple[Hashable, ...] | None = None
    if picture_keys and with_pictures:
        keys = _keys(with_pictures)
    elif repeated:
        known = [i for item in with_pictures for i in _ids(item)]
        keys = tuple(i if i in repeated else None for i in known)
    return EncoderInputs(
        input_ids=torch.from_numpy(np.concatenate([item.input_ids for item in items])),
        position_ids=torch.from_numpy(
            np.concatenate([item.position_ids for item in items], axis=1)
        ),
        cu_seqlens=torch.from_numpy(cu_seqlens),
        pixel_values=pixels,
        grid_thw=grids,
        cu_pictures=torch.from_numpy(np.cumsum([0, *pictures])),
        picture_keys=keys if keys and any(key is not None for key in keys) else None,
    )


def chunk_cost(inputs: EncoderInputs) -> int:
    """Tokens of both towers, the unit of `chunk_tokens`: a patch row counts as one."""
    pixels = inputs["pixel_values"]
    return len(inputs["input_ids"]) + (0 if pixels is None else len(pixels))


def split(inputs: EncoderInputs, chunk_tokens: int | None) -> tuple[EncoderInputs, ...]:
    """Consecutive items of at most `chunk_tokens` (see `chunk_cost`) together; views, no copies.

    An item above the budget is a chunk of its own. None = one chunk.
    """
    if chunk_tokens is None or chunk_cost(inputs) <= chunk_tokens:
        return (inputs,)
    tokens, patches = inputs["cu_seqlens"].tolist(), _cu_patches(inputs).tolist()
    costs = [
        tokens[at + 1] - tokens[at] + patches[at + 1] - patches[at] for at in range(len(tokens) - 1)
    ]
    borders, spent = [0], 0
    for at, cost in enumerate(costs):
        if at > borders[-1] and spent + cost > chunk_tokens:
            borders.append(at)
            spent = 0
        spent += cost
    return tuple(
        _items(inputs, begin, end, slice(patches[begin], patches[end]))
        for begin, end in pairwise([*borders, len(costs)])
    )


def _ids(item: PreparedItem) -> tuple[Hashable, ...]:
    assert item.grid_thw is not None
    return item.picture_ids or (None,) * len(item.grid_thw)


def _keys(items: Sequence[PreparedItem]) -> tuple[bytes, ...]:
    """128 bits of the patch rows and the grid of each picture."""
    keys: list[bytes] = []
    for item in items:
        assert item.patches is not None and item.grid_thw is not None
        begin = 0
        for grid in np.ascontiguousarray(item.grid_thw):
            end = begin + int(grid.prod())
            digest = hashlib.blake2b(grid.tobytes(), digest_size=16)
            digest.update(np.ascontiguousarray(item.patches[begin:end]).data)
            keys.append(digest.digest())
            begin = end
    return tuple(keys)


def _cu_patches(inputs: EncoderInputs) -> Tensor:
    """(B + 1,) where each item's patch rows begin."""
    if inputs["grid_thw"] is None:
        return torch.zeros_like(inputs["cu_pictures"])
    of_pictures = torch.nn.functional.pad(inputs["grid_thw"].prod(1).cumsum(0), (1, 0))
    return of_pictures[inputs["cu_pictures"]]


def _items(inputs: EncoderInputs, begin: int, end: int, patches: slice) -> EncoderInputs:
    """Items `begin` to `end` (exclusive) of a packed row."""
    borders = inputs["cu_seqlens"][begin : end + 1]
    tokens = slice(int(borders[0]), int(borders[-1]))
    cu_pictures = inputs["cu_pictures"][begin : end + 1]
    pictures = slice(int(cu_pictures[0]), int(cu_pictures[-1]))
    pixels, grids, keys = inputs["pixel_values"], inputs["grid_thw"], inputs["picture_keys"]
    if pictures.start == pictures.stop:
        pixels = grids = keys = None
    return EncoderInputs(
        input_ids=inputs["input_ids"][tokens],
        position_ids=inputs["position_ids"][:, tokens],
        cu_seqlens=borders - borders[0],
        pixel_values=None if pixels is None else pixels[patches],
        grid_thw=None if grids is None else grids[pictures],
        cu_pictures=cu_pictures - cu_pictures[0],
        picture_keys=None if keys is None else keys[pictures],
    )
