"""The encoder: backbone -> pooling -> head. Packed inputs in, unit vectors out."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmembed.encoder.attention import set_causal
from mmembed.encoder.backbone import Backbone
from mmembed.encoder.head import project
from mmembed.encoder.pooling import Pooling, mean_pool
from mmembed.inputs.collator import EncoderInputs

__all__ = ["Encoder", "EncoderConfig"]


class EncoderConfig(BaseModel):
    """How token states become a vector. Part of the model folder.

    `attention` is that of the language model: `causal`, as it was pretrained, or `bidirectional`,
    where every token of an item sees the whole item.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: ClassVar[Literal["embedder", "reranker"]] = "embedder"

    attention: Literal["causal", "bidirectional"] = "causal"
    pooling: Pooling = "last_token"
    normalize: bool = True
    truncate_dim: int | None = Field(default=None, ge=1)


class Encoder(nn.Module):
    """`forward(inputs)` gives (B, D) float32 rows of unit norm, with gradients.

    Attributes:
        int8_step: of int8 embeddings, where training has learnt one.
    """

    int8_step: float | None = None

    def __init__(self, backbone: Backbone, config: EncoderConfig | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config or EncoderConfig()
        set_causal(backbone.layers, self.config.attention == "causal")

    @property
    def embedding_dimension(self) -> int:
        return self.config.truncate_dim or self.backbone.hidden_size

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    def forward(
        self,
        inputs: EncoderInputs,
        *,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
    ) -> Tensor:
        """(B, D) float32; the keywords replace the config's value for this call."""
        if self.config.pooling == "last_token":
            pooled = self.backbone.last_token_states(inputs)
        else:
            pooled = mean_pool(self.backbone.hidden_states(inputs), inputs["cu_seqlens"])
        return project(
            pooled,
            truncate_dim=truncate_dim or self.config.truncate_dim,
            normalize=self.config.normalize if normalize is None else normalize,
        )
