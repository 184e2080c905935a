"""Settings of low-rank adapters (LoRA, arXiv 2106.09685); `encoder/lora.py` puts them in."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmembed.config.validation import StrictModel

__all__ = ["LoraConfig"]


class LoraConfig(StrictModel):
    """Which linear layers get an update of low rank, scaled by `alpha / rank`.

    Args:
        rank: None = no adapters, all weights are trained.
        alpha: the rank if None, so that the scale is 1.
        targets: of the language model's layers: all of them, or those whose names end with one
            of these, e.g. `q_proj` or `mlp.up_proj`.
        vision: also all linear layers of the vision tower, mergers included.
    """

    rank: int | None = Field(default=None, ge=1)
    alpha: float | None = Field(default=None, gt=0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    vision: bool = False
