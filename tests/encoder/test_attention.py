"""Packed attention against attention inside each sequence alone, value and gradient."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from mmembed.encoder.attention import (
    _flat_attention,
    _plan,
    _varlen_kernel,
    cumulative,
    packed_attention,
)

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


def shared_before_each(tensor, lengths, shared):
    """(1, heads, T, D) with the first `shared` tokens copied before each sequence."""
    first, *own = tensor.split([shared, *lengths], dim=2)
    return torch.cat([torch.cat([first, part], dim=2) for part in own], dim=2)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_shared_tokens_stand_before_every_sequence(lengths):
    generator = torch.Generator().manual_seed(0)
    shared = 6
    shapes = [(1, heads, shared + sum(lengths), 8) for heads in (4, 2, 2)]
    ours = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    module = nn.Module()
    module.is_causal = True
    borders = cumulative(torch.tensor(lengths)) + shared
    mixed, _ = packed_attention(module, *ours, None, cu_seq_lens_q=borders)
    whole = tuple(shared + length for length in lengths)
    copied = [shared_before_each(tensor, lengths, shared) for tensor in theirs]
    parts = one_by_one(*copied, whole, True).split(whole, dim=1)
    expected = torch.cat([parts[0][:, :shared], *(part[:, shared:] for part in parts)], dim=1)
    assert (mixed - expected).abs().max() <= 2e-6
    weights = torch.randn(mixed.shape, generator=generator)
    (mixed * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, reference in zip(ours, theirs, strict=True):
        assert (mine.grad - reference.grad).abs().max() <= 2e-5


def test_tokens_that_see_what_follows_cannot_be_shared():
    module = nn.Module()
    module.is_causal = False
    rows = [torch.zeros(1, 1, 9, 4)] * 3
    with pytest.raises(AssertionError, match="cannot be shared"):
        packed_attention(module, *rows, None, cu_seq_lens_q=torch.tensor([2, 5, 9]))


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
    with pytest.raises(ValueError, match="sequence of 9 tokens exceeds the sliding window of 8"):
        packed_attention(
            nn.Module(), *tensors, None, cu_seq_lens_q=torch.tensor([2, 9]), sliding_window=8
        )


def test_a_plan_made_while_encoding_serves_training_too():
    lengths = (3, 5, 4, 5, 61)  # of no other test, so that the plan is made here
    row = torch.randn(1, 2, sum(lengths), 8, requires_grad=True)
    module = nn.Module()
    for causal in (True, False):
        module.is_causal = causal
        borders = cumulative(torch.tensor(lengths))
        with torch.inference_mode():
            packed_attention(module, row, row, row, None, cu_seq_lens_q=borders)
        mixed, _ = packed_attention(module, row, row, row, None, cu_seq_lens_q=borders)
        mixed.sum().backward()
    assert torch.isfinite(row.grad).all()


def documented_varlen(
    query,
    key,
    value,
    cu_q,
    cu_k,
    max_q,
    max_k,
    *,
    scale=None,
    window_size=(-1, -1),
    enable_gqa=False,
):
    """`torch.nn.attention.varlen.varlen_attn` as it is documented, sequence by sequence."""
    outputs = []
    for begin, end in itertools.pairwise(cu_q.tolist()):
        q, k, v = (t[begin:end].transpose(0, 1) for t in (query, key, value))
        behind = torch.arange(end - begin)[:, None] - torch.arange(end - begin)
        left, right = (float("inf") if size < 0 else size for size in window_size)
        seen = (behind <= left) & (-behind <= right)
        outputs.append(
            scaled_dot_product_attention(
                q, k, v, attn_mask=seen, scale=scale, enable_gqa=enable_gqa
            ).transpose(0, 1)
        )
    return torch.cat(outputs)


def check_varlen(device, dtype, tolerance):
    lengths = (1, 9, 4, 9, 30)
    for causal, shared in ((True, 0), (False, 0), (True, 5)):
        rows = [torch.randn(1, heads, shared + sum(lengths), 64) for heads in (4, 2, 2)]
        given = [row.to(device, dtype) for row in rows]
        ours = _flat_attention(_varlen_kernel(), *given, lengths, shared, 64**-0.5, causal)
        reference = nn.Module()
        reference.is_causal = causal
        theirs, _ = packed_attention(
            reference,
            *(row.cpu().float() for row in given),
            None,
            cu_seq_lens_q=cumulative(torch.tensor(lengths)) + shared,
        )
        assert (ours.cpu().float() - theirs).abs().max() <= tolerance


def test_the_varlen_kernel_is_asked_for_causal_or_full_attention(monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", documented_varlen)
    _varlen_kernel.cache_clear()
    try:
        check_varlen("cpu", torch.float32, 1e-5)
    finally:
        _varlen_kernel.cache_clear()


@pytest.mark.gpu
def test_the_varlen_kernel_equals_every_sequence_alone():
    check_varlen("cuda", torch.bfloat16, 3e-2)
