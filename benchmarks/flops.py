"""Floating-point operations of a forward pass, and how many a GPU could do: the two halves of MFU.

Matrix products only, two operations for each weight and token, and attention over what each token
may see. Norms, activations, softmax and rotary positions are left out, as is customary (PaLM,
appendix B); causal attention counts half of the square.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["forward_flops", "language_weights", "peak_tflops", "vision_weights"]

_PATCH_VALUES = 3 * 2 * 14 * 14  # colours, frames of a temporal patch, pixels
_MERGED = 4  # patches of one token

# Dense bfloat16 TFLOP/s of the vendors' data sheets, by a part of the device's name.
_PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125}


def language_weights(model: Mapping[str, Any]) -> int:
    """Weights of the language model's matrices, without the embedding table."""
    width, heads, kv_heads = model["hidden_size"], model["num_heads"], model["num_kv_heads"]
    attention = 2 * width * width + 2 * width * (width // heads * kv_heads)
    return int(model["num_layers"] * (attention + 3 * width * model["intermediate_size"]))


def vision_weights(model: Mapping[str, Any]) -> int:
    """Weights of the matrices that every patch goes through: patch embedding and blocks."""
    width = model["vision_width"]
    return int(_PATCH_VALUES * width + model["vision_depth"] * 12 * width * width)


def forward_flops(model: Mapping[str, Any], tokens: Sequence[int], patches: Sequence[int]) -> float:
    """Of items with `tokens` each, and of pictures with `patches` each.

    Args:
        model: sizes, in the words of `create_checkpoint`.
    """
    language = sum(
        2 * language_weights(model) * count
        + 2 * model["num_layers"] * model["hidden_size"] * count**2  # half of 4 L^2 d
        for count in tokens
    )
    width = model["vision_width"]
    merger = _MERGED * width * (_MERGED * width + model["hidden_size"])
    vision = sum(
        2 * vision_weights(model) * count
        + 4 * model["vision_depth"] * width * count**2
        + 2 * merger * count // _MERGED
        for count in patches
    )
    return float(language + vision)


def peak_tflops(device_name: str) -> float:
    """Raises ValueError for a device that the table does not know."""
    for part, peak in _PEAKS.items():
        if part in device_name:
            return float(peak)
    raise ValueError(
        f"no peak is known for {device_name!r} (known: {', '.join(_PEAKS)}); give --peak-tflops"
    )
