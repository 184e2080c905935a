"""The from-scratch checkpoint is a real Qwen2-VL folder, and a reproducible one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import (
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    Qwen2Tokenizer,
    Qwen2VLForConditionalGeneration,
)

from mmembed.encoder.checkpoint import load_encoder, read_description
from mmembed.encoder.encoder import EncoderConfig
from mmembed.encoder.identity import fingerprint
from mmembed.encoder.scratch import SPECIAL_TOKENS, create_checkpoint
from mmembed.errors import ConfigError
from mmembed.inputs.processor import TokenRange
from mmembed.inputs.prompt import load_template

TEXTS = ("a dog in the rain", "a cat on the mat", "苹果") * 3
PROMPT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    "<|im_start|>assistant\n<|endoftext|>"
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def last_states(folder: Path, texts: list[str]) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = [
            model(**tokenizer(PROMPT.format(text), return_tensors="pt")).last_hidden_state[0, -1]
            for text in texts
        ]
    return torch.nn.functional.normalize(torch.stack(states), dim=-1)


def test_every_weight_is_found_by_both_model_classes(tiny_checkpoint):
    for model_class in (AutoModel, Qwen2VLForConditionalGeneration):
        _, info = model_class.from_pretrained(tiny_checkpoint, output_loading_info=True)
        assert not any(info.values()), info
    names = set(load_file(tiny_checkpoint / "model.safetensors"))
    assert {"model.embed_tokens.weight", "visual.patch_embed.proj.weight"} <= names
    assert not any("lm_head" in name for name in names)


def test_special_tokens_follow_the_vocabulary_in_the_published_order(tiny_checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    first = len(tokenizer) - len(SPECIAL_TOKENS)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [*range(first, len(tokenizer))]
    published = {"<|endoftext|>": 151643, "<|im_end|>": 151645, "<|vision_start|>": 151652}
    published |= {"<|vision_pad|>": 151654, "<|image_pad|>": 151655, "<|video_pad|>": 151656}
    for token, number in published.items():
        assert tokenizer.convert_tokens_to_ids(token) == first + number - 151643
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    assert config["vocab_size"] == len(tokenizer)
    for key, token in (
        ("image_token_id", "<|image_pad|>"),
        ("video_token_id", "<|video_pad|>"),
        ("vision_start_token_id", "<|vision_start|>"),
        ("vision_end_token_id", "<|vision_end|>"),
        ("eos_token_id", "<|im_end|>"),
    ):
        assert config[key] == tokenizer.convert_tokens_to_ids(token)


@pytest.mark.parametrize("text", ["a dog", "I'll pay 1234 for it\n\n", "苹果 तफ्फाह \U0001f34e"])
def test_text_survives_tokenisation(tiny_checkpoint, text):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert not set(tokenizer(text).input_ids) & set(tokenizer.all_special_ids)


def test_tokenizer_file_splits_text_like_the_published_class(tiny_checkpoint):
    published = Qwen2Tokenizer(vocab={}, merges=[]).backend_tokenizer
    ours = Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    for text in ("I'll pay 1234,50 for it!\n\n  ok", "\u00e9 e\u0301 \u82f9\u679c", " a\tb "):
        normal = ours.normalizer.normalize_str(text)
        assert normal == published.normalizer.normalize_str(text)
        assert ours.pre_tokenizer.pre_tokenize_str(
            normal
        ) == published.pre_tokenizer.pre_tokenize_str(normal)


def test_tokenizer_learned_from_the_texts(tmp_path):
    folder = create_checkpoint(tmp_path, ["umbrella umbrella umbrella"] * 3, vocab_size=300)
    assert len(AutoTokenizer.from_pretrained(folder)("umbrella").input_ids) == 1


def test_processor_keeps_pictures_within_the_token_budget(tmp_path):
    folder = create_checkpoint(
        tmp_path, TEXTS, vocab_size=300, min_image_tokens=4, max_image_tokens=12
    )
    processor = AutoProcessor.from_pretrained(folder)
    found = set()
    for size in ((8, 8), (112, 84), (900, 600)):
        batch = processor(
            text=["<|vision_start|><|image_pad|><|vision_end|>"],
            images=[Image.new("RGB", size)],
            return_tensors="pt",
        )
        num_tokens = int((batch["input_ids"] == processor.image_token_id).sum())
        assert num_tokens == int(batch["image_grid_thw"].prod()) // 4
        found.add(num_tokens)
    assert min(found) == 4 and max(found) == 12


def test_chat_template_writes_the_published_turns(tiny_checkpoint):
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hello"}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert text + "<|endoftext|>" == PROMPT.format(f"{image}hello")
    assert AutoTokenizer.from_pretrained(tiny_checkpoint).chat_template == processor.chat_template


def test_mmembed_reads_the_prompt_and_the_budget(tmp_path):
    folder = create_checkpoint(
        tmp_path, TEXTS, vocab_size=300, prompt="plain", min_image_tokens=5, max_image_tokens=7
    )
    _, processor = load_encoder(folder)
    config = processor.config
    processor.close()
    assert read_description(folder)["fingerprint"] == fingerprint(
        folder, config, EncoderConfig(**read_description(folder)["encoder"])
    )
    assert config.prompt == load_template("plain")
    for budget in (config.image_tokens, config.frame_tokens, config.page_tokens):
        assert budget == TokenRange(min=5, max=7)
    with pytest.raises(ConfigError, match="rzen_release"):
        create_checkpoint(tmp_path, TEXTS, vocab_size=300, prompt="nowhere")


def test_unrelated_texts_embed_clearly_differently(tiny_checkpoint):
    states = last_states(
        tiny_checkpoint, ["a red apple moving left", "the rain", "First, a dog and a car!", "सेब"]
    )
    cosines = states @ states.T
    assert cosines.fill_diagonal_(-1).max() < 0.9


def test_equal_arguments_give_equal_bytes(tmp_path):
    torch.manual_seed(1)
    first = create_checkpoint(tmp_path / "first", TEXTS, vocab_size=300, seed=3)
    torch.manual_seed(2)
    second = create_checkpoint(tmp_path / "second", TEXTS, vocab_size=300, seed=3)
    other = create_checkpoint(tmp_path / "other", TEXTS, vocab_size=300, seed=4)
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_global_random_state_is_left_alone(tmp_path):
    before = torch.get_rng_state()
    create_checkpoint(tmp_path, TEXTS, vocab_size=300)
    assert torch.equal(before, torch.get_rng_state())


def test_default_scale_of_weights_follows_the_width(tmp_path):
    folder = create_checkpoint(tmp_path, TEXTS, vocab_size=300, hidden_size=64)
    weights = load_file(folder / "model.safetensors")
    query = weights["model.layers.0.self_attn.q_proj.weight"]
    output = weights["model.layers.0.self_attn.o_proj.weight"]
    assert query.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert output.std().item() == pytest.approx(64**-0.5 / 2, rel=0.05)  # two layers, two branches
    assert torch.all(weights["model.norm.weight"] == 1)
    assert torch.all(weights["visual.merger.ln_q.weight"] == 1)
    assert torch.all(weights["visual.merger.mlp.0.bias"] == 0)


def test_weight_scale_and_initializer_range_multiply_matrices_only(tmp_path):
    plain = load_file(
        create_checkpoint(tmp_path / "a", TEXTS, vocab_size=300, initializer_range=0.1)
        / "model.safetensors"
    )
    scaled = load_file(
        create_checkpoint(
            tmp_path / "b", TEXTS, vocab_size=300, initializer_range=0.1, weight_scale=2.0
        )
        / "model.safetensors"
    )
    for name, tensor in plain.items():
        factor = 2.0 if tensor.ndim > 1 else 1.0
        torch.testing.assert_close(scaled[name], tensor * factor)
    assert plain["model.embed_tokens.weight"].std().item() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_any_head_width_gets_rotary_sections_that_fill_it(tmp_path, num_heads):
    folder = create_checkpoint(tmp_path, TEXTS, vocab_size=300, num_heads=num_heads)
    config = json.loads((folder / "config.json").read_text())
    assert sum(config["rope_scaling"]["mrope_section"]) == 64 // num_heads // 2
    assert torch.isfinite(last_states(folder, ["a dog"])).all()


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ({"vocab_size": 269}, "vocab_size"),
        ({"hidden_size": 60}, "hidden_size"),
        ({"num_heads": 0}, "hidden_size"),
        ({"vision_width": 30}, "vision_width"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads"),
        ({"min_image_tokens": 9, "max_image_tokens": 4}, "min_image_tokens"),
    ],
)
def test_sizes_that_do_not_fit_are_named(tmp_path, sizes, named):
    with pytest.raises(ConfigError, match=named):
        create_checkpoint(tmp_path / "never", TEXTS, **sizes)
