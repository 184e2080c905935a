"""Packed attention against attention inside each sequence alone, value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from mmembed.encoder.attention import _plan, cumulative, packed_attention

LENGTHS = [
    (5,),
    (3, 3, 3),
    (7, 7, 2, 2, 2),
    (1, 9, 4, 9, 1, 30, 29, 28, 27, 12, 11, 10),
    tuple(range(40, 20, -1)),
    (400, 399, 300, 260, 240, 200),
]


def one_by_one(query, key, value, lengths, causal):
    """Each sequence alone through the library's attention."""
    repeats = query.shape[1] // key.shape[1]
    outputs = []
    for q, k, v in zip(*(t.split(lengths, dim=2) for t in (query, key, value)), strict=True):
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        outputs.append(scaled_dot_product_attention(q, k, v, is_causal=causal))
    return torch.cat(outputs, dim=2).transpose(1, 2)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_packed_attention_equals_every_sequence_alone(lengths, causal):
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, sum(lengths), 8) for heads in (4, 2, 2)]
    ours = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    module = nn.Module()
    module.is_causal = causal
    mixed, _ = packed_attention(
        module, *ours, None, cu_seq_lens_q=cumulative(torch.tensor(lengths))
    )
    expected = one_by_one(*theirs, lengths, causal)
    assert (mixed - expected).abs().max() <= 2e-6
    weights = torch.randn(mixed.shape, generator=generator)
    (mixed * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, reference in zip(ours, theirs, strict=True):
        assert (mine.grad - reference.grad).abs().max() <= 2e-5


def test_similar_lengths_share_a_batch_only_under_a_causal_mask():
    lengths = tuple(range(40, 20, -1))
    assert len(_plan(lengths, True).batches) <= 4
    assert len(_plan(lengths, False).batches) == len(lengths)


def test_a_sequence_beyond_the_sliding_window_is_refused():
    tensors = [torch.zeros(1, 1, 9, 4)] * 3
    with pytest.raises(ValueError, match="sliding window of 8"):
        packed_attention(
            nn.Module(),
            *tensors,
            None,
            cu_seq_lens_q=cumulative(torch.tensor([9])),
            sliding_window=8,
        )
