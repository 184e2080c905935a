"""Tokens that all items of a packed row begin with, such as the system prompt, computed once.

Under causal attention a token's state depends on what stands before it only. So equal beginnings
have equal states in every item, and one copy in front of the row serves all of them: the linear
layers see it once, and attention puts it before each item again (`attention.py`). Half of a short
text is prompt.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mmembed.inputs.collator import EncoderInputs

__all__ = ["share_prefix"]

# Attention copies the shared tokens for each item; below this part of the row that costs more.
_LEAST_SHARE = 0.05


def share_prefix(inputs: EncoderInputs, *, visual_ids: Iterable[int] = ()) -> EncoderInputs:
    """The packed row with the longest common beginning of its items taken out and put in front.

    `cu_seqlens` (B + 1,) then begins at the number of shared tokens instead of 0: item i has its
    own tokens in `cu_seqlens[i]:cu_seqlens[i + 1]` and the shared ones before them. Every item
    keeps at least one token of its own. Returned as it is where sharing would not pay.

    Args:
        inputs: on the CPU, nothing shared yet.
        visual_ids: of tokens that stand for pictures; pictures may differ, so sharing ends there.
    """
    borders = inputs["cu_seqlens"].long()
    lengths = torch.diff(borders)
    ids, positions = inputs["input_ids"], inputs["position_ids"]
    limit = int(lengths.min()) - 1
    if len(lengths) < 2 or limit * (len(lengths) - 1) < _LEAST_SHARE * len(ids):
        return inputs
    beginnings = borders[:-1, None] + torch.arange(limit)  # (B, limit)
    same = (ids[beginnings] == ids[:limit]).all(0)
    same &= (positions[:, beginnings] == positions[:, None, :limit]).all(0).all(0)
    for visual in visual_ids:
        same &= ids[:limit] != visual
    shared = int(same.long().cumprod(0).sum())
    if shared * (len(lengths) - 1) < _LEAST_SHARE * len(ids):
        return inputs
    take = _without_beginnings(borders, shared)
    own = torch.nn.functional.pad(torch.cumsum(lengths - shared, 0), (1, 0)) + shared
    return {
        **inputs,
        "input_ids": ids[take],
        "position_ids": positions[:, take],
        "cu_seqlens": own.to(torch.int32),
    }


def _without_beginnings(borders: Tensor, shared: int) -> Tensor:
    """Tokens of the new row in the old one: the beginning of the first item, then what is left."""
    inside = torch.arange(int(borders[-1])) - torch.repeat_interleave(
        borders[:-1], torch.diff(borders)
    )
    return torch.cat([torch.arange(shared), (inside >= shared).nonzero().squeeze(1)])
