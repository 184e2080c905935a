"""Settings of low-rank adapters (LoRA, arXiv 2106.09685); `encoder/lora.py` puts them in."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmembed.config.validation import StrictModel

__all__ = ["LoraConfig"]


class LoraConfig(StrictModel):
    """Which linear layers get an update of rank `r`, scaled by `alpha / r`.

    Args:
        targets: of the language model's layers: all of them, or those whose names end with one
            of these, e.g. `q_proj` or `mlp.up_proj`.
        vision: also all linear layers of the vision tower, mergers included.
    """

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    vision: bool = False
