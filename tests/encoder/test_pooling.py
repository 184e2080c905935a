"""Pooling of packed rows: the golden vectors of both padding sides, which packing drops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmembed.encoder.embedder import Embedder
from mmembed.encoder.head import project
from mmembed.encoder.pooling import mean_pool
from mmembed.inputs.collator import pack
from mmembed.types import MultimodalInput

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())
CASE = next(case for case in GOLDEN["tests"] if case["id"] == "pooling")


@pytest.mark.parametrize(
    ("side", "last_token", "mean"),
    [
        ("mask_right_padded", "last_token_right", "mean_right"),
        ("mask_left_padded", "last_token_left", "mean_left"),
    ],
)
def test_packed_rows_give_the_golden_vectors_of_padded_ones(side: str, last_token: str, mean: str):
    hidden, expected = torch.tensor(CASE["inputs"]["hidden"]), CASE["expected"]
    kept = torch.tensor(CASE["inputs"][side]).bool()
    packed, lengths = hidden[kept], kept.sum(1)  # (T, D), (B,)
    borders = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    for pooled, name in ((packed[borders[1:] - 1], last_token), (mean_pool(packed, borders), mean)):
        wanted = torch.tensor(expected[name])
        torch.testing.assert_close(project(pooled), wanted, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_last_token_is_the_one_before_the_next_item(tiny_checkpoint: Path):
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1, device="cpu") as embedder:
        items = [
            embedder.processor.prepare(MultimodalInput.of(text)) for text in ("a", "a red dog")
        ]
        inputs, backbone = pack(items), embedder.encoder.backbone
        states = backbone.hidden_states(inputs)[inputs["cu_seqlens"][1:].long() - 1]
        torch.testing.assert_close(backbone.last_token_states(inputs), states)
        torch.testing.assert_close(embedder.encoder(inputs), project(states))
        assert not torch.allclose(states[0], states[1])
