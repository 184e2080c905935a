"""Counted operations against closed forms and against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2VLConfig, Qwen2VLModel

from benchmarks.flops import forward_flops, language_weights, peak_tflops, vision_weights
from benchmarks.settings import MODELS

SIZES = {
    "hidden_size": 64,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "intermediate_size": 96,
    "vision_depth": 2,
    "vision_width": 32,
}


def test_the_2b_shape_has_the_weights_that_its_name_says() -> None:
    # per layer q and o, k and v, gate, up and down
    layer = 2 * 1536 * 1536 + 2 * 1536 * 256 + 3 * 1536 * 8960
    assert language_weights(MODELS["2b"]) == 28 * layer
    assert vision_weights(MODELS["2b"]) == 1176 * 1280 + 32 * 12 * 1280**2


def test_an_item_costs_two_operations_for_each_weight_and_attention_to_half_of_the_square() -> None:
    expected = 2 * language_weights(SIZES) * 10 + 3 * 2 * 64 * 10**2
    assert forward_flops(SIZES, [10], []) == expected
    assert forward_flops(SIZES, [10, 10], []) == 2 * expected


def test_a_picture_costs_its_patches_its_square_and_its_merged_tokens() -> None:
    merger = 128 * 128 + 128 * 64
    expected = 2 * vision_weights(SIZES) * 16 + 2 * 4 * 32 * 16**2 + 2 * merger * 4
    assert forward_flops(SIZES, [], [16]) == expected


def test_torch_counts_the_same_in_the_library_s_model() -> None:
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": 50,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2, 3, 3],
            },
        },
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2},
        image_token_id=7,
        vision_start_token_id=8,
    )
    config._attn_implementation = "eager"
    model = Qwen2VLModel(config).eval()
    tokens, patches = 12, 16
    ids = torch.tensor([[1, 8, 7, 7, 7, 7, 1, 2, 3, 4, 5, 6]])
    grid = torch.tensor([[1, 4, 4]])
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(
            input_ids=ids,
            pixel_values=torch.randn(patches, 1176),
            image_grid_thw=grid,
            mm_token_type_ids=(ids == 7).int(),
            use_cache=False,
        )
    masked_half = 2 * SIZES["num_layers"] * SIZES["hidden_size"] * tokens**2
    # rotary positions are outer products too, which the formula leaves out
    found = counter.get_total_flops() - masked_half
    assert found == pytest.approx(forward_flops(SIZES, [tokens], [patches]), rel=2e-3)


def test_the_peak_is_found_by_a_part_of_the_name() -> None:
    assert peak_tflops("NVIDIA H200") == 989
    with pytest.raises(ValueError, match="--peak-tflops"):
        peak_tflops("Some GPU")
