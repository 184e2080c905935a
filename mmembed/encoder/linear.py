"""Linear layers on a CPU through oneDNN, where it multiplies faster than PyTorch's default.

In float32 PyTorch multiplies through MKL, which does not use all of what processors of other makers
than Intel can do. Which of the two is faster is measured once for a process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

__all__ = ["use_faster_linears"]

# Far above what noise makes of equal speeds: processes of one machine must choose alike, so that
# their vectors are equal to the bit.
_LEAST_GAIN = 1.25
_ROUNDS = 5


def use_faster_linears(model: nn.Module) -> bool:
    """Let the linear layers of a model in float32 on a CPU use oneDNN; False: no gain here.

    Without gradients only, and never under autocast. Weights stay where they are.
    """
    weights = next(model.parameters())
    if weights.device.type != "cpu" or weights.dtype != torch.float32 or not _is_faster():
        return False
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = _OneDnnLinear(module)  # type: ignore[assignment]
    return True


class _OneDnnLinear:
    """The `forward` of a linear layer."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer

    def __call__(self, rows: Tensor) -> Tensor:
        weight, bias = self.layer.weight, self.layer.bias
        plain = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
        if plain or rows.device.type != "cpu" or rows.dtype != torch.float32:
            return linear(rows, weight, bias)
        return _by_onednn(rows, weight, bias)


def _by_onednn(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    operation: Any = torch.ops.mkldnn._linear_pointwise
    product: Tensor = operation(rows, weight, bias, "none", [], "")
    return product


@cache
def _is_faster() -> bool:
    """Whether oneDNN gains `_LEAST_GAIN` on this processor, by the best of some short rounds."""
    if not torch.backends.mkldnn.is_available():
        return False
    rows, weight = torch.ones(512, 512), torch.ones(512, 512)
    best: dict[Callable[..., Tensor], float] = {linear: math.inf, _by_onednn: math.inf}
    try:
        with torch.inference_mode():
            for _ in range(1 + _ROUNDS):  # the first has to load the library
                for product in best:
                    started = time.perf_counter()
                    product(rows, weight, None)
                    best[product] = min(best[product], time.perf_counter() - started)
    except (AttributeError, RuntimeError):  # a build of PyTorch without this operation
        return False
    return best[linear] >= _LEAST_GAIN * best[_by_onednn]
