"""From token states to one state for each item: `last_token` or `mean`, on packed rows.

Packed rows have no padding, so there is no padding side to get wrong.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Pooling", "pool"]

Pooling = Literal["last_token", "mean"]


def pool(hidden_states: Tensor, cu_seqlens: Tensor, pooling: Pooling) -> Tensor:
    """(T, D) post-norm states of B packed items -> (B, D) float32.

    `last_token` reads the state of each item's last token, `mean` averages all its tokens, the
    template's and the instruction's included. Sums are taken in float32.
    """
    borders = cu_seqlens.to(hidden_states.device, torch.long)
    if pooling == "last_token":
        return hidden_states.index_select(0, borders[1:] - 1).float()
    lengths = torch.diff(borders)
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=borders.device), lengths)
    sums = hidden_states.new_zeros(
        (len(lengths), hidden_states.shape[-1]), dtype=torch.float32
    ).index_add(0, owner, hidden_states.float())
    return sums / lengths.unsqueeze(1)
