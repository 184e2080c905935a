"""Tiny random checkpoints of every architecture, in the file formats of the published ones.

The tokenizer is that of `create_checkpoint`; the configs follow config.json of Qwen/Qwen2.5-0.5B,
Qwen/Qwen3-0.6B, Qwen/Qwen2.5-VL-3B-Instruct and Qwen/Qwen3-VL-2B-Instruct, and tensors get their
published names from transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from mmembed.encoder.scratch import create_checkpoint

TEXT = ("qwen2", "qwen3")
VISION = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")

_VISION_FILES = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
)
_LANGUAGE = {
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_position_embeddings": 32768,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "use_cache": True,
}
_WINDOWLESS = {"max_window_layers": 3, "sliding_window": 32768, "use_sliding_window": False}


def build(folder: Path, architecture: str, texts: Any, *, scale: float = 1.6) -> Path:
    """A folder as `from_pretrained` of any library takes it; without `mmembed.json`."""
    create_checkpoint(folder, texts, vocab_size=400, min_image_tokens=4, weight_scale=scale)
    (folder / "mmembed.json").unlink()
    if architecture == "qwen2_vl":
        return folder
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    ids = {entry["content"]: entry["id"] for entry in vocabulary}
    size = max(ids.values()) + 1
    special = {
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
    }
    pictures = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }
    _write(folder / "config.json", _config(architecture, {**special, "vocab_size": size}, pictures))
    if architecture in TEXT:
        for name in _VISION_FILES:
            (folder / name).unlink(missing_ok=True)
    elif architecture == "qwen3_vl":
        settings = {
            "size": {"longest_edge": 16 * 32 * 32, "shortest_edge": 4 * 32 * 32},
            "patch_size": 16,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "Qwen3VLProcessor",
            "image_processor_type": "Qwen2VLImageProcessorFast",
        }
        _write(folder / "preprocessor_config.json", settings)
        settings |= {"video_processor_type": "Qwen3VLVideoProcessor"}
        del settings["image_processor_type"]
        _write(folder / "video_preprocessor_config.json", settings)
    else:
        settings = json.loads((folder / "preprocessor_config.json").read_text())
        settings["processor_class"] = "Qwen2_5_VLProcessor"
        _write(folder / "preprocessor_config.json", settings)
    _write_weights(folder, architecture, scale)
    return folder


def _config(architecture: str, special: dict[str, int], pictures: dict[str, int]) -> dict[str, Any]:
    if architecture == "qwen2":
        name = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
        return {**name, **_LANGUAGE, **_WINDOWLESS, **special}
    if architecture == "qwen3":
        name = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
        heads = {"head_dim": 32, "attention_bias": False, "rope_scaling": None}
        return {**name, **_LANGUAGE, **heads, **_WINDOWLESS, "sliding_window": None, **special}
    if architecture == "qwen2_5_vl":
        vision = {
            "depth": 3,
            "hidden_act": "silu",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "in_chans": 3,
            "out_hidden_size": _LANGUAGE["hidden_size"],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
            "temporal_patch_size": 2,
        }
        return {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            **_LANGUAGE,
            **_WINDOWLESS,
            **special,
            **pictures,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
            "vision_config": vision,
        }
    assert architecture == "qwen3_vl"
    rotary = {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"}
    language = {k: v for k, v in _LANGUAGE.items() if k not in ("tie_word_embeddings",)}
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        **pictures,
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": "qwen3_vl_text",
            **language,
            **special,
            "dtype": "float32",
            "head_dim": 16,
            "attention_bias": False,
            "rope_scaling": rotary,
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "deepstack_visual_indexes": [0, 1],
            "depth": 3,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 32,
            "in_channels": 3,
            "intermediate_size": 48,
            "num_heads": 2,
            "num_position_embeddings": 49,
            "out_hidden_size": _LANGUAGE["hidden_size"],
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


def _write_weights(folder: Path, architecture: str, scale: float) -> None:
    """Matrices of std scale / sqrt(fan-in); every vector random too, norms around 1."""
    config = AutoConfig.from_pretrained(folder)
    loader = AutoModelForCausalLM if architecture in TEXT else AutoModelForImageTextToText
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = loader.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    around = 1.0 if "norm" in name or "ln_q" in name else 0.0
                    parameter.copy_(around + 0.1 * torch.randn_like(parameter))
                else:
                    spread = scale * parameter[0].numel() ** -0.5
                    parameter.copy_(torch.randn_like(parameter) * spread)
    published = (folder / "config.json").read_bytes()
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "config.json").write_bytes(published)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
