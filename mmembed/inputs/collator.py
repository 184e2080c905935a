"""Prepared items -> one packed row of encoder inputs.

Packed is the only layout: all items of a batch stand in one row without padding, and `cu_seqlens`
says where each begins. So no token is computed that nobody asked for, there is no padding side,
and vision rows never need to be matched to padded rows. `encoder/attention.py` keeps the items
apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from mmembed.inputs.items import PreparedItem

__all__ = ["EncoderInputs", "pack"]


class EncoderInputs(TypedDict):
    """B items with T tokens in all; P patch rows of V pictures in all."""

    input_ids: Tensor  # (T,) int64
    position_ids: Tensor  # (3, T) int64
    cu_seqlens: Tensor  # (B + 1,) int32, on the CPU: lengths steer Python-side grouping
    pixel_values: Tensor | None  # (P, patch_dim) uint8
    grid_thw: Tensor | None  # (V, 3) int64


def pack(items: Sequence[PreparedItem]) -> EncoderInputs:
    """Lay items end to end, in order. At least one item."""
    assert items
    lengths = np.array([len(item.input_ids) for item in items])
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    with_pictures = [item for item in items if item.patches is not None]
    pixels = grids = None
    if with_pictures:
        pixels = torch.from_numpy(np.concatenate([item.patches for item in with_pictures]))
        grids = torch.from_numpy(np.concatenate([item.grid_thw for item in with_pictures]))
    return EncoderInputs(
        input_ids=torch.from_numpy(np.concatenate([item.input_ids for item in items])),
        position_ids=torch.from_numpy(
            np.concatenate([item.position_ids for item in items], axis=1)
        ),
        cu_seqlens=torch.from_numpy(cu_seqlens),
        pixel_values=pixels,
        grid_thw=grids,
    )
