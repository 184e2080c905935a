"""The arithmetic of souping: tensors in, a tensor out, at least float32 in between.

- `mean`: weighted arithmetic mean (Model soups, arXiv 2203.05482; RzenEmbed 3.4.5).
- `slerp`: along the great circle between two directions (Qwen3-Embedding 3.2 merges so, after
  arXiv 2410.15035). More than two members are a left fold with t_k = 1 / (k + 1), the analogue of
  the uniform mean: member k + 1 gets the share it has in a mean of k + 1.
- `cocktail_weights`: weights from losses on a few examples (LM-Cocktail, arXiv 2311.13534).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mmembed.errors import ConfigError

__all__ = ["cocktail_weights", "mean", "normalised", "slerp", "slerp_fold", "widened"]

# Above it sin(angle) is so small that the two formulas agree and the quotient only adds noise.
_PARALLEL = 0.9995
_CHUNK = 1 << 20


def normalised(weights: Sequence[float] | None, count: int) -> list[float]:
    """Weights that sum to 1; uniform for None.

    Raises:
        ConfigError: another number of weights, a negative or infinite one, or only zeros.
    """
    chosen = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(chosen) != count:
        raise ConfigError(f"{len(chosen)} weights for {count} checkpoints; give one each")
    total = sum(chosen)
    if not all(0 <= weight < math.inf for weight in chosen) or total <= 0:
        raise ConfigError(f"weights {chosen} must be finite, >= 0 and not all 0")
    return [weight / total for weight in chosen]


def cocktail_weights(losses: Sequence[float], temperature: float = 5.0) -> list[float]:
    """softmax(-loss / temperature): a lower loss, a larger weight.

    Raises:
        ConfigError: no losses, one that is not finite, or a temperature that is not positive.
    """
    if not losses or not all(map(math.isfinite, losses)):
        raise ConfigError(f"losses {list(losses)} must be finite, one for each checkpoint")
    if not 0 < temperature < math.inf:
        raise ConfigError(f"temperature is {temperature}; it must be positive")
    least = min(losses)
    return normalised([math.exp((least - loss) / temperature) for loss in losses], len(losses))


def mean(tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_k weights[k] * tensor_k in at least float32; takes the tensors one by one."""
    total: Tensor | None = None
    for tensor, weight in zip(tensors, weights, strict=True):
        wide = widened(tensor) * weight
        total = wide if total is None else total.add_(wide)
    assert total is not None, "the mean of no tensors"
    return total


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """The point a fraction `t` of the way from `a` to `b`, at least float32; a at 0, b at 1.

    The angle is that of the flattened, normalised tensors; its coefficients apply to the raw ones.
    Tensors that are zero or nearly (anti)parallel have no such way: those are interpolated
    linearly.

    Raises:
        ConfigError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ConfigError(f"slerp of shapes {tuple(a.shape)} and {tuple(b.shape)}; they must agree")
    a, b = widened(a), widened(b)
    left, right = _coefficients(a, b, t)
    return (a * left).add_(b, alpha=right)


def slerp_fold(tensors: Iterable[Tensor], t: float | None = None) -> Tensor:
    """`slerp` of the first two, of that and the third, ...; step k goes t = 1 / (k + 1) of the way.

    Args:
        t: replaces the fraction of every step; meant for two tensors.
    """
    point: Tensor | None = None
    for count, tensor in enumerate(tensors):
        if point is None:
            point = widened(tensor)
            continue
        point = slerp(point, tensor, 1 / (count + 1) if t is None else t)
    assert point is not None, "the slerp of no tensors"
    return point


def _coefficients(a: Tensor, b: Tensor, t: float) -> tuple[float, float]:
    cosine = _cosine(a, b)
    if cosine is None or abs(cosine) > _PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def _cosine(a: Tensor, b: Tensor) -> float | None:
    """Of the flattened tensors, summed in float64 block by block; None when one is zero."""
    dot = squares_a = squares_b = 0.0
    blocks = zip(a.reshape(-1).split(_CHUNK), b.reshape(-1).split(_CHUNK), strict=True)
    for x, y in blocks:
        x, y = x.double(), y.double()
        dot += torch.dot(x, y).item()
        squares_a += torch.dot(x, x).item()
        squares_b += torch.dot(y, y).item()
    length = math.sqrt(squares_a) * math.sqrt(squares_b)
    return max(-1.0, min(1.0, dot / length)) if length else None


def widened(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
