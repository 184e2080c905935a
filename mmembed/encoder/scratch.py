"""A small random Qwen2-VL checkpoint, written in the format in which the real ones are published.

The quickstart trains one from nothing and the tests load it everywhere a real checkpoint would
go. It is data, not modelling code: `config.json`, `model.safetensors`, a byte-level BPE tokenizer
trained on the caller's texts, the processor's settings and the chat template, under the file
names, key names and tensor names of https://huggingface.co/Qwen/Qwen2-VL-2B-Instruct. Every
loader of such folders (`transformers`, `sentence-transformers`, `mmembed`) takes it. One file is
ours: `mmembed.json` with the prompt and the budget of pictures.

The language-model head is tied to the token embeddings, as in the 2B model, so that the file
holds no tensor that an embedding model would throw away.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import AutoConfig, AutoModelForImageTextToText

from mmembed.encoder.checkpoint import write_description
from mmembed.encoder.encoder import EncoderConfig
from mmembed.encoder.reranker_model import RerankerConfig
from mmembed.errors import ConfigError
from mmembed.inputs.processor import InputConfig, TokenRange
from mmembed.inputs.prompt import load_template

__all__ = ["SPECIAL_TOKENS", "create_checkpoint"]

# In the order of their ids, which follow the BPE vocabulary without a gap.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# transformers/models/qwen2/tokenization_qwen2.py
_PRETOKENIZE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # openai/CLIP, as in every Qwen2-VL processor
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_PATCH_SIZE = 14
_MERGE_SIZE = 2
_NUM_BYTES = 256
# The last matrix of each residual branch; scaled with depth as in GPT-2 (section 2.3).
_RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight", "attn.proj.weight", "mlp.fc2.weight")

# The published template's behaviour: a default system turn, vision before or between texts.
_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' or 'video' in part -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def create_checkpoint(
    folder: Path,
    texts: Iterable[str],
    *,
    vocab_size: int = 2000,
    hidden_size: int = 64,
    num_layers: int = 2,
    num_heads: int = 2,
    num_kv_heads: int = 1,
    intermediate_size: int = 128,
    vision_depth: int = 2,
    vision_width: int = 32,
    vision_heads: int = 2,
    min_image_tokens: int = 4,
    max_image_tokens: int = 16,
    prompt: str = "rzen_release",
    seed: int = 0,
    weight_scale: float = 1.0,
    initializer_range: float | None = None,
) -> Path:
    """Write a random Qwen2-VL checkpoint folder; the same arguments give the same bytes.

    Args:
        folder: created if missing; files of the same names are replaced.
        texts: what the tokenizer is trained on.
        vocab_size: upper bound of the vocabulary, 256 bytes and 14 special tokens included. Few
            texts give a smaller one; `config.json` holds the size that came out.
        min_image_tokens, max_image_tokens: budget of one picture, frame or page; a token is
            28 x 28 pixels.
        prompt: the template that `mmembed` uses with this model: a shipped name, or a JSON file.
            One with a query and a document makes a reranker; `texts` then need many yes and no.
        weight_scale: multiplies every matrix. Above 1 a random model tells inputs apart clearly,
            which tests want; training wants 1.
        initializer_range: standard deviation of every matrix. None: 1 / sqrt(fan-in), and
            residual branches divided by sqrt(2 * depth), so that the scale of activations does not
            depend on the width. The published value, .02, belongs to a width of some thousands.

    Returns:
        `folder`.

    Raises:
        ConfigError: sizes that do not fit together, or no such template.
    """
    head_dim = _head_dim("hidden_size", hidden_size, num_heads, multiple=8)
    _head_dim("vision_width", vision_width, vision_heads, multiple=4)
    if num_kv_heads < 1 or num_heads % num_kv_heads:
        raise ConfigError(f"num_kv_heads is {num_kv_heads}; it must divide num_heads ({num_heads})")
    if not 0 < min_image_tokens <= max_image_tokens:
        raise ConfigError(
            f"min_image_tokens is {min_image_tokens} and max_image_tokens {max_image_tokens}; "
            "they must be positive and in this order"
        )
    template = load_template(prompt)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _train_tokenizer(texts, vocab_size)
    tokenizer.save(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab()
    ids = {token: vocabulary[token] for token in SPECIAL_TOKENS}

    config = {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "initializer_range": initializer_range or hidden_size**-0.5,
        "intermediate_size": intermediate_size,
        "max_position_embeddings": 32768,
        "max_window_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_hidden_layers": num_layers,
        "num_key_value_heads": num_kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": _mrope_section(head_dim)},
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": False,
        "vocab_size": len(vocabulary),
        "vision_config": {
            "depth": vision_depth,
            "embed_dim": vision_width,
            "hidden_size": hidden_size,
            "mlp_ratio": 4,
            "num_heads": vision_heads,
            "in_chans": 3,
            "patch_size": _PATCH_SIZE,
            "spatial_merge_size": _MERGE_SIZE,
            "spatial_patch_size": _PATCH_SIZE,
            "temporal_patch_size": 2,
        },
    }
    _write_json(folder / "config.json", config)
    _write_tokenizer_config(folder / "tokenizer_config.json", ids)
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2VLProcessor",
            "min_pixels": min_image_tokens * (_PATCH_SIZE * _MERGE_SIZE) ** 2,
            "max_pixels": max_image_tokens * (_PATCH_SIZE * _MERGE_SIZE) ** 2,
            "patch_size": _PATCH_SIZE,
            "temporal_patch_size": 2,
            "merge_size": _MERGE_SIZE,
            "image_mean": list(_CLIP_MEAN),
            "image_std": list(_CLIP_STD),
        },
    )
    _write_json(folder / "chat_template.json", {"chat_template": _CHAT_TEMPLATE})
    tensors = _random_weights(folder, seed, weight_scale, initializer_range)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    budget = TokenRange(min=min_image_tokens, max=max_image_tokens)
    inputs = InputConfig(
        prompt=template, image_tokens=budget, frame_tokens=budget, page_tokens=budget
    )
    encoder = RerankerConfig() if template.is_pair else EncoderConfig()
    write_description(folder, inputs, encoder, embedding_dimension=hidden_size)
    return folder


def _head_dim(name: str, width: int, num_heads: int, *, multiple: int) -> int:
    if num_heads < 1 or width < 1 or width % (multiple * num_heads):
        raise ConfigError(
            f"{name} is {width} for {num_heads} heads; it must be a multiple of "
            f"{multiple} times the number of heads, because of the rotary positions"
        )
    return width // num_heads


def _mrope_section(head_dim: int) -> list[int]:
    """Rotary frequencies of time, row and column: 16, 24, 24 of 64 in the published models."""
    half = head_dim // 2
    time = half // 4
    row = (half - time) // 2
    return [time, row, half - time - row]


def _train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    num_pieces = vocab_size - len(SPECIAL_TOKENS)
    if num_pieces < _NUM_BYTES:
        raise ConfigError(
            f"vocab_size is {vocab_size}; {_NUM_BYTES} bytes and {len(SPECIAL_TOKENS)} special "
            f"tokens need at least {_NUM_BYTES + len(SPECIAL_TOKENS)}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRETOKENIZE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        BpeTrainer(
            vocab_size=num_pieces,
            min_frequency=2,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return tokenizer


def _write_tokenizer_config(path: Path, ids: dict[str, int]) -> None:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    added = {
        str(index): {"content": token, **flags, "special": True} for token, index in ids.items()
    }
    _write_json(
        path,
        {
            "add_prefix_space": False,
            "added_tokens_decoder": added,
            "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
            "bos_token": None,
            "chat_template": _CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 32768,
            "pad_token": "<|endoftext|>",
            "padding_side": "right",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )


def _random_weights(
    folder: Path, seed: int, weight_scale: float, initializer_range: float | None
) -> dict[str, torch.Tensor]:
    """Random tensors under their published names, for the shapes that `config.json` implies.

    Drawn one by one from an own generator: the library's initialisation follows the global random
    state and the order in which modules happen to be built.
    """
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    depths = {"visual": config.vision_config.depth, "model": config.text_config.num_hidden_layers}
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for parameter_name, parameter in model.named_parameters():
        name = _published_name(parameter_name)
        shape = tuple(parameter.shape)
        if parameter.ndim == 1:
            is_norm_weight = "norm" in name or ".ln_q." in name
            fill = 1.0 if is_norm_weight and name.endswith("weight") else 0.0
            tensors[name] = torch.full(shape, fill)
            continue
        fan_in = math.prod(shape[1:])  # for the embedding table: the width of a row
        std = initializer_range or fan_in**-0.5
        if initializer_range is None and name.endswith(_RESIDUAL_OUTPUTS):
            std /= math.sqrt(2 * depths[name.split(".", 1)[0]])
        tensors[name] = torch.randn(shape, generator=generator) * (std * weight_scale)
    return tensors


def _published_name(parameter_name: str) -> str:
    """Files name the towers `visual.` and `model.`; the classes of transformers nest them."""
    for tower, published in (("model.visual.", "visual."), ("model.language_model.", "model.")):
        if parameter_name.startswith(tower):
            return published + parameter_name.removeprefix(tower)
    return parameter_name


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
