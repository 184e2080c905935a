"""Attention over packed rows: one kernel for the language model and for the vision tower.

Registered with transformers' attention interface, so no modelling code is forked. Many sequences
stand in one row (`cu_seq_lens_q`); a token attends only inside its own sequence, causally or not
as its module says. Two kernels give the same vectors:

- CUDA in half precision: `torch.nn.attention.varlen.varlen_attn` (flash attention, no padding).
- anywhere else: sequences of equal (causal: of similar) length are batched into one
  `scaled_dot_product_attention`, which is exact, needs no mask, and beats both padding the whole
  forward and a Python loop over sequences.

Where `cu_seq_lens_q` begins at P > 0, the first P tokens stand before every sequence (`prefix.py`).

The registered name contains "flash" because transformers decides by that word whether to hand the
whole packed row over (with `cu_seqlens`) or to split it in a Python loop first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mmembed.errors import CheckpointError

__all__ = [
    "ATTENTION_NAME",
    "attention_kernel",
    "cumulative",
    "packed_attention",
    "set_causal",
    "use_packed_attention",
]

ATTENTION_NAME = "mmembed_packed_flash"

# Up to this length attention is cheap beside the matrix products, so filling up costs little.
_SHORT = 256


def use_packed_attention(model: PreTrainedModel) -> None:
    """Make every attention layer of `model` use `packed_attention`."""
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, packed_attention)
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "_attn_implementation"):
            config._attn_implementation = ATTENTION_NAME


def set_causal(layers: Iterable[nn.Module], causal: bool) -> None:
    """Let the tokens of these decoder layers see only what stands before them, or all of the item.

    Raises:
        CheckpointError: a layer whose attention does not say whether it is causal.
    """
    for layer in layers:
        attention: Any = getattr(layer, "self_attn", None)
        if not hasattr(attention, "is_causal"):
            raise CheckpointError(
                f"{type(layer).__name__} has no self_attn.is_causal; its attention cannot be "
                "switched between causal and bidirectional"
            )
        attention.is_causal = causal


@torch.compiler.disable  # plans by lengths: compiled, each batch would be compiled anew
def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention inside each of S sequences of one packed row.

    Args:
        query: (1, H, T, D); key, value: (1, G, T, D) with H a multiple of G.
        attention_mask: must be None; borders come from `cu_seq_lens_q` (S + 1,), on the CPU.

    Returns:
        (1, T, H, D) and no weights.
    """
    assert attention_mask is None and query.shape[0] == 1, "packed rows carry no mask"
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    borders = cu_seq_lens_q.tolist()
    shared, lengths = borders[0], tuple(end - begin for begin, end in pairwise(borders))
    assert causal or not shared, "tokens that see what follows them cannot be shared"
    if sliding_window is not None and shared + max(lengths) > sliding_window:
        raise ValueError(
            f"a sequence of {shared + max(lengths)} tokens exceeds the sliding window of "
            f"{sliding_window}; lower max_tokens"
        )
    kernel = _kernel_of(query.device.type, query.dtype)
    if kernel is not None and not dropout:
        return _flat_attention(kernel, query, key, value, lengths, shared, scaling, causal), None
    return _batched_attention(query, key, value, lengths, shared, scaling, dropout, causal), None


def attention_kernel(device_type: str, dtype: torch.dtype) -> str:
    """`varlen` or `sdpa`: which of the two kernels packed rows of this kind go through."""
    return "sdpa" if _kernel_of(device_type, dtype) is None else "varlen"


def _kernel_of(device_type: str, dtype: torch.dtype) -> Callable[..., Tensor] | None:
    half = dtype in (torch.bfloat16, torch.float16)
    return _varlen_kernel() if half and device_type == "cuda" else None


@dataclass(frozen=True)
class _Plan:
    """How S packed sequences become a few dense batches.

    Attributes:
        batches: (length, count) of each batch, in order.
        take: token of each row of the batches, or None when the packed row already is that.
        give: row of the batches of each token (T,), or None likewise.
    """

    batches: tuple[tuple[int, int], ...]
    take: Tensor | None
    give: Tensor | None


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a plan made while encoding may be needed for a gradient later
def _plan(lengths: tuple[int, ...], causal: bool) -> _Plan:
    """Batch sequences of equal length; under a causal mask also of similar length.

    Rows that fill up a shorter sequence stand behind it, where causal attention never looks, and
    their own results are dropped: exact, without a mask.
    """
    runs = tuple((length, len(list(run))) for length, run in groupby(lengths))
    if len(runs) == len({length for length, _ in runs}) and (not causal or len(runs) <= 3):
        return _Plan(runs, None, None)
    batches: list[tuple[int, int]] = []
    ranks = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for rank in ranks:
        share = 1.0 if not causal else 0.75 if lengths[rank] <= _SHORT else 0.9
        if batches and lengths[rank] >= share * batches[-1][0]:
            batches[-1] = (batches[-1][0], batches[-1][1] + 1)
        else:
            batches.append((lengths[rank], 1))
    sizes = torch.tensor([lengths[rank] for rank in ranks])
    begins = torch.cumsum(torch.tensor(lengths), 0)[ranks] - sizes
    filled = torch.cat([torch.full((count,), length) for length, count in batches])
    first = torch.cumsum(filled, 0) - filled  # row of the batches at which each sequence begins
    offset = torch.arange(int(filled.sum())) - torch.repeat_interleave(first, filled)
    inside = offset < torch.repeat_interleave(sizes, filled)
    take = torch.repeat_interleave(begins, filled) + offset * inside
    give = torch.empty(sum(lengths), dtype=torch.long)
    give[take[inside]] = inside.nonzero().squeeze(1)
    return _Plan(tuple(batches), take, give)


def _batched_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    shared: int,
    scaling: float | None,
    dropout: float,
    causal: bool,
) -> Tensor:
    plan = _plan(lengths, causal)
    heads, kv_heads, width = query.shape[1], key.shape[1], query.shape[3]
    whole = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # (T, heads, D)
    first, rows = [tensor[:shared] for tensor in whole], [tensor[shared:] for tensor in whole]
    if plan.take is not None:
        take = plan.take.to(query.device)
        rows = [tensor.index_select(0, take) for tensor in rows]
    outputs: list[Tensor] = []
    of_shared: list[Tensor] = []
    begin = 0
    for length, count in plan.batches:
        end = begin + length * count
        q, k, v = (
            _behind(ahead, tensor[begin:end].reshape(count, length, -1, width)).transpose(1, 2)
            for ahead, tensor in zip(first, rows, strict=True)
        )
        grouped = kv_heads != heads
        if grouped and query.is_cuda:  # its fast kernels of this function know equal heads only
            k = k.repeat_interleave(heads // kv_heads, dim=1)
            v = v.repeat_interleave(heads // kv_heads, dim=1)
            grouped = False
        # causal attention of one token attends to itself only, like full attention
        mixed = scaled_dot_product_attention(
            q,
            k,
            v,
            dropout_p=dropout,
            is_causal=causal and shared + length > 1,
            scale=scaling,
            enable_gqa=grouped,
        )
        if shared and not of_shared:  # the same in front of every sequence
            of_shared.append(mixed[0, :, :shared].transpose(0, 1))
        outputs.append(mixed[:, :, shared:].transpose(1, 2).reshape(count * length, heads, width))
        begin = end
    packed = outputs[0] if len(outputs) == 1 else torch.cat(outputs)  # (T - shared, H, D)
    if plan.give is not None:
        packed = packed.index_select(0, plan.give.to(query.device))
    return torch.cat([*of_shared, packed]).unsqueeze(0)


def _behind(shared: Tensor, rows: Tensor) -> Tensor:
    """Rows (count, L, heads, D) with the shared (P, heads, D) before each of them.

    Expanded and not indexed: so the gradient of the shared ones is one sum, in a fixed order.
    """
    if not len(shared):
        return rows
    return torch.cat([shared.expand(len(rows), -1, -1, -1), rows], dim=1)


def _flat_attention(
    kernel: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    shared: int,
    scaling: float | None,
    causal: bool,
) -> Tensor:
    """Attention by a kernel for packed rows; shared tokens are copied before each sequence."""
    borders, take, give = _flat_plan(lengths, shared, query.device)
    longest = shared + max(lengths)
    if take is None or give is None:
        return kernel(query, key, value, borders, longest, scaling, causal)
    rows = (tensor.index_select(2, take) for tensor in (query, key, value))
    return kernel(*rows, borders, longest, scaling, causal).index_select(1, give)


@lru_cache(maxsize=8)  # all layers ask for the same
@torch.inference_mode(False)
def _flat_plan(
    lengths: tuple[int, ...], shared: int, device: torch.device
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Borders (S + 1,) of the sequences with what they share; where rows come from and go to."""
    sizes = torch.tensor(lengths) + shared
    borders = cumulative(sizes).to(device)
    if not shared:
        return borders, None, None
    begins = cumulative(torch.tensor(lengths))[:-1]  # of own tokens, counted without the shared
    inside = torch.cat([torch.arange(int(size)) for size in sizes])
    own = torch.repeat_interleave(begins, sizes) + inside
    take = torch.where(inside < shared, inside, own)
    give = torch.cat([torch.arange(shared), (inside >= shared).nonzero().squeeze(1)])
    return borders, take.to(device), give.to(device)


@cache
def _varlen_kernel() -> Callable[..., Tensor] | None:
    """torch's varlen flash attention behind one signature; None when this build has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    parameters = inspect.signature(varlen_attn).parameters

    def kernel(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        borders: Tensor,
        longest: int,
        scaling: float | None,
        causal: bool,
    ) -> Tensor:
        q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
        options: dict[str, Any] = {}
        if "window_size" in parameters:
            options["window_size"] = (-1, 0) if causal else (-1, -1)
        else:
            options["is_causal"] = causal
        default = q.shape[-1] ** -0.5
        if scaling is not None and "scale" in parameters:
            options["scale"] = scaling
        elif scaling is not None and scaling != default:
            q = q * (scaling / default)
        if k.shape[1] != q.shape[1]:
            if "enable_gqa" in parameters:
                options["enable_gqa"] = True
            else:
                k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
                v = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
        mixed = varlen_attn(q, k, v, borders, borders, longest, longest, **options)
        assert isinstance(mixed, Tensor)
        return mixed.unsqueeze(0)

    return kernel


def cumulative(lengths: Tensor) -> Tensor:
    """Borders (S + 1,) int32 of sequences of these lengths (S,), on the CPU."""
    return torch.nn.functional.pad(torch.cumsum(lengths, 0), (1, 0)).to(torch.int32)
