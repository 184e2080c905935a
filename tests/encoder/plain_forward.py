"""The reference: plain `transformers`, one padded batch, every step written out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
PREFIX = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"


def picture(seed: int, height: int = 60, width: int = 80) -> PILImage.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return PILImage.fromarray(noise).resize((width, height), PILImage.Resampling.BICUBIC)


def prompt(content: str) -> str:
    return PREFIX + content + SUFFIX


class PlainForward:
    """`AutoModel` with eager attention on padded rows; no code of ours."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.images = None
        if hasattr(self.model, "visual"):
            self.images = AutoImageProcessor.from_pretrained(folder)

    @torch.no_grad()
    def embed(
        self,
        prompts: Sequence[str],
        pictures: Sequence[Sequence[Any]] = (),
        *,
        side: Literal["left", "right"] = "right",
        attention: Literal["causal", "bidirectional"] = "causal",
        pooling: Literal["last_token", "mean"] = "last_token",
    ) -> np.ndarray:
        """prompts[i] with pictures[i] -> unit rows (B, D)."""
        states, mask = self.states(prompts, pictures, side=side, attention=attention)
        if pooling == "mean":
            pooled = (states * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
        else:
            last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
            pooled = states[torch.arange(len(prompts)), last]
        return torch.nn.functional.normalize(pooled, dim=-1).numpy()

    @torch.no_grad()
    def states(
        self,
        prompts: Sequence[str],
        pictures: Sequence[Sequence[Any]] = (),
        *,
        side: Literal["left", "right"] = "right",
        attention: Literal["causal", "bidirectional"] = "causal",
    ) -> tuple[Tensor, Tensor]:
        """Token states (B, L, D) and the mask of real tokens (B, L)."""
        groups = list(pictures) or [[] for _ in prompts]
        shown = [one for group in groups for one in group]
        features: dict[str, Tensor] = {}
        if shown:
            area = (self.images.patch_size * self.images.merge_size) ** 2
            size = {"shortest_edge": 4 * area, "longest_edge": 16 * area}
            features = dict(self.images(images=shown, size=size, return_tensors="pt"))
        grids = iter(features.get("image_grid_thw", ()))
        rows = []
        for text, group in zip(prompts, groups, strict=True):
            for _ in group:
                count = int(next(grids).prod()) // self.images.merge_size**2
                text = text.replace("<|image_pad|>", "<|later|>" * count, 1)
            rows.append(self.tokenizer(text.replace("<|later|>", "<|image_pad|>"))["input_ids"])
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            where = slice(0, len(row)) if side == "right" else slice(longest - len(row), None)
            ids[i, where] = torch.tensor(row)
            mask[i, where] = 1
        options: dict[str, Any] = {"attention_mask": mask}
        kinds = None
        if self.images is not None:
            self.model.rope_deltas = None
            kinds = (ids == self.model.config.image_token_id).int()
        if shown:
            options["mm_token_type_ids"] = kinds
        if attention == "bidirectional":
            options = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
            if shown:
                options["position_ids"], _ = self.model.get_rope_index(
                    ids, kinds, features["image_grid_thw"], attention_mask=mask
                )
            hidden = torch.finfo(torch.float32).min * (1 - mask)[:, None, None, :]
            options["attention_mask"] = hidden.expand(-1, 1, longest, -1).float()
        return self.model(input_ids=ids, **options, **features).last_hidden_state, mask
