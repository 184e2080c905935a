"""What every loss refuses: embeddings that are not finite, temperatures that are not positive.

Every process sees the same gathered embeddings, so all of them refuse together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmembed.errors import MMEmbedError
from mmembed.losses.embeddings import ContrastiveEmbeddings, at_least_float32

__all__ = ["NonFiniteEmbeddings", "check_finite", "row_temperatures"]


class NonFiniteEmbeddings(MMEmbedError, ValueError):  # noqa: N818  named after what it found
    """NaN or infinity in queries or documents."""


def check_finite(e: ContrastiveEmbeddings) -> None:
    """Refuse NaN and infinity.

    Raises:
        NonFiniteEmbeddings: names queries or documents and the first such row.
    """
    for name, values in (("queries", e.all_queries), ("documents", e.documents)):
        # One pass without a copy; a sum of unit vectors cannot overflow float32.
        if bool(
            values.detach().sum(dtype=torch.promote_types(values.dtype, torch.float32)).isfinite()
        ):
            continue
        bad = (~values.detach().isfinite()).any(1).nonzero()[:, 0].tolist()
        if bad:
            raise NonFiniteEmbeddings(
                f"{name} has NaN or infinity in {len(bad)} of {len(values)} rows of the global "
                f"batch, first in row {bad[0]}; a loss needs finite embeddings. Look for a "
                "diverged encoder, or for this input"
            )


def row_temperatures(temperature: Tensor, e: ContrastiveEmbeddings) -> Tensor:
    """(B,) temperatures, float32 or as wide as the embeddings, from one for all or one for a row.

    Raises:
        ValueError: another shape, or a value that is NaN, 0 or below.
    """
    num_rows = len(e.queries)
    if temperature.numel() != 1 and temperature.shape != (num_rows,):
        raise ValueError(
            f"temperature has shape {tuple(temperature.shape)}; expected a scalar or ({num_rows},)"
        )
    if not bool((temperature > 0).all()):
        flat = temperature.detach().reshape(-1)
        row = int((~(flat > 0)).nonzero()[0, 0])
        raise ValueError(
            f"temperature is {flat[row].item()} in row {row}; every temperature must be above 0"
        )
    dtype = at_least_float32(e.queries[:0]).dtype
    return temperature.to(dtype).reshape(-1).expand(num_rows)
