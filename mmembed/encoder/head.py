"""What happens to a pooled state: Matryoshka truncation, L2 normalisation, quantisation.

Truncate first, then normalise, every time: a prefix of a unit vector is not a unit vector
(Matryoshka representation learning, arXiv 2205.13147).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mmembed.errors import ConfigError

__all__ = ["PRECISIONS", "Precision", "project", "quantize"]

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


def project(states: Tensor, *, truncate_dim: int | None = None, normalize: bool = True) -> Tensor:
    """(B, D) pooled states -> (B, truncate_dim or D) float32, unit norm when `normalize`."""
    states = states.float()
    if truncate_dim is not None:
        states = states[:, :truncate_dim]
    return torch.nn.functional.normalize(states, dim=-1) if normalize else states


def quantize(
    embeddings: np.ndarray, precision: Precision, *, step: float | None = None
) -> np.ndarray:
    """(N, D) unit float32 -> the chosen precision.

    `int8` divides by `step`, which training has learnt, and rounds to [-127, 127] (`uint8`: to
    [1, 255]); without one, 127 stands for 1. Either is fixed, so a vector never depends on the
    batch it came in. `ubinary` packs the signs (x > 0) eight to a byte,
    (N, ceil(D / 8)) uint8; `binary` is the same minus 128 as int8.

    Raises:
        ConfigError: unknown precision, or a row holds NaN, which integers cannot carry.
    """
    if precision == "float32":
        return embeddings
    if not np.isfinite(embeddings).all():
        raise ConfigError(
            f"precision={precision!r} cannot carry failed (NaN) rows; use on_error='skip' or "
            "'raise', or precision='float32'"
        )
    if precision in ("int8", "uint8"):
        scaled = np.rint(np.clip(embeddings / (step or 1 / 127), -127.0, 127.0))
        return scaled.astype(np.int8) if precision == "int8" else (scaled + 128).astype(np.uint8)
    if precision in ("binary", "ubinary"):
        packed = np.packbits(embeddings > 0, axis=-1)
        return packed if precision == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)
    raise ConfigError(f"precision is {precision!r}; allowed: float32, int8, uint8, binary, ubinary")
