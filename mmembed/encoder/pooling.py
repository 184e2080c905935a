"""From token states to one state for each item, on packed rows.

Packed rows have no padding, so there is no padding side to get wrong. `last_token` needs no
pooling step: `Backbone.last_token_states` computes the last layer for those tokens only.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Pooling", "mean_pool"]

Pooling = Literal["last_token", "mean"]


def mean_pool(hidden_states: Tensor, cu_seqlens: Tensor) -> Tensor:
    """(T, D) post-norm states of B packed items -> (B, D) float32, summed in float32.

    All tokens of an item count, the template's and the instruction's included.
    """
    lengths = torch.diff(cu_seqlens.to(hidden_states.device, torch.long))
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    sums = hidden_states.new_zeros(
        (len(lengths), hidden_states.shape[-1]), dtype=torch.float32
    ).index_add(0, owner, hidden_states.float())
    return sums / lengths.unsqueeze(1)
