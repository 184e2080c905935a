"""An item that counts nothing, for processes that must do what others do.

Where parameters are cut over the processes, a forward pass of the vision tower needs all of them.
A process whose chunk has no picture puts a blank one behind its items and forgets its embedding:
the gradients that it gives are zeros.
"""

from __future__ import annotations

import torch

from mmembed.encoder.encoder import Encoder
from mmembed.inputs.collator import EncoderInputs

__all__ = ["blank_item", "with_last_item"]


def blank_item(encoder: Encoder) -> EncoderInputs:
    """One black picture of one token; one token of text where there is no vision tower."""
    backbone = encoder.backbone
    pixels = grid = None
    if backbone.tower is not None:
        side = backbone.tower.spatial_merge_size
        pixels = torch.zeros(side * side, len(backbone.pixel_mean), dtype=torch.uint8)
        grid = torch.tensor([[1, side, side]])
    return EncoderInputs(
        input_ids=torch.tensor([backbone.image_token_id or 0]),
        position_ids=torch.zeros(3, 1, dtype=torch.long),
        cu_seqlens=torch.tensor([0, 1], dtype=torch.int32),
        pixel_values=pixels,
        grid_thw=grid,
        cu_pictures=torch.tensor([0, int(grid is not None)]),
        picture_keys=None,
    )


def with_last_item(inputs: EncoderInputs, item: EncoderInputs) -> EncoderInputs:
    """`inputs` without pictures, and `item` behind them."""
    assert inputs["pixel_values"] is None
    return EncoderInputs(
        input_ids=torch.cat([inputs["input_ids"], item["input_ids"]]),
        position_ids=torch.cat([inputs["position_ids"], item["position_ids"]], dim=1),
        cu_seqlens=_borders(inputs["cu_seqlens"], item["cu_seqlens"]),
        pixel_values=item["pixel_values"],
        grid_thw=item["grid_thw"],
        cu_pictures=_borders(inputs["cu_pictures"], item["cu_pictures"]),
        picture_keys=None,
    )


def _borders(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return torch.cat([first, first[-1] + second[1:]])
