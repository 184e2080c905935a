"""Adapters: their place, their gradients, the merged folder, and files that do not fit."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mmembed.config.lora import LoraConfig
from mmembed.encoder.backbone import load_backbone
from mmembed.encoder.checkpoint import load_encoder, save_encoder
from mmembed.encoder.embedder import Embedder
from mmembed.encoder.encoder import Encoder
from mmembed.encoder.lora import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    adapted_layers,
    add_lora,
    load_adapter,
    merge_lora,
    merged_weights,
    save_adapter,
)
from mmembed.encoder.model_files import read_geometry
from mmembed.errors import CheckpointError, ConfigError
from mmembed.inputs.collator import pack
from mmembed.types import MultimodalInput
from tests.conftest import TINY_TEXTS
from tests.encoder.architectures import TEXT, VISION, build
from tests.encoder.plain_forward import picture

peft = pytest.importorskip("peft")

ALL = LoraConfig(rank=4, alpha=8, vision=True)
LANGUAGE = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("architectures")
    return {name: build(root / name, name, TINY_TEXTS * 4) for name in TEXT + VISION}


@pytest.fixture(scope="module")
def batches(folders):
    """Architecture -> one packed batch: texts, and pictures where the model takes them."""
    packed = {}
    for architecture, folder in folders.items():
        with Embedder.from_pretrained(folder, num_workers=1) as embedder:
            items = ["a dog", "the rain and the cat"]
            if architecture in VISION:
                items += [{"text": "look", "image": picture(1)}, picture(2, 90, 50)]
            prepare = embedder.processor.prepare
            packed[architecture] = pack([prepare(MultimodalInput.of(item)) for item in items])
    return packed


@pytest.fixture
def load(folders):
    def get(architecture):
        folder = folders[architecture]
        geometry = read_geometry(folder)[0] if architecture in VISION else None
        return Encoder(load_backbone(folder, geometry)).eval()

    return get


def config_for(architecture, **changes):
    return ALL.model_copy(update={"vision": architecture in VISION, **changes})


def stir(encoder, seed=0):
    """Give every adapter a B that is not zero, as training does."""
    generator = torch.Generator().manual_seed(seed)
    for layer in adapted_layers(encoder).values():
        weight = layer.lora_B["default"].weight
        weight.data = 0.3 * torch.randn(weight.shape, generator=generator)


def linear_names(model):
    return {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}


@pytest.mark.parametrize("architecture", TEXT + VISION)
def test_all_linear_with_vision_adapts_every_linear_layer(load, architecture):
    encoder = load(architecture)
    expected = linear_names(encoder.backbone.model)
    add_lora(encoder, config_for(architecture))
    assert set(adapted_layers(encoder.backbone.model)) == expected
    if architecture in VISION:
        assert any("merger" in name for name in expected)


def test_targets_choose_layers_of_the_language_model_only(load):
    encoder = load("qwen2_5_vl")  # its vision tower has gate_proj too
    add_lora(encoder, LoraConfig(rank=16, targets=("q_proj", "mlp.gate_proj")))
    names = set(adapted_layers(encoder.backbone.model))
    assert names == {
        f"language_model.layers.{layer}.{target}"
        for layer in range(3)
        for target in ("self_attn.q_proj", "mlp.gate_proj")
    }


@pytest.mark.parametrize("architecture", TEXT + VISION)
def test_new_adapters_change_no_vector_and_alone_take_gradients(load, batches, architecture):
    encoder = load(architecture)
    inputs = batches[architecture]
    with torch.inference_mode():
        before = encoder(inputs)
    add_lora(encoder, config_for(architecture))
    assert torch.equal(encoder(inputs), before)
    encoder(inputs)[0].sum().backward()
    trained = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    assert {n for n, p in encoder.named_parameters() if p.grad is not None} <= trained
    stir(encoder)
    encoder.zero_grad()
    weights = torch.linspace(-1, 1, before.shape[1])
    (encoder(inputs) * weights).sum().backward()
    untouched = {n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None}
    assert not untouched
    assert all(p.grad.abs().max() > 0 for p in encoder.parameters() if p.requires_grad)


@pytest.mark.parametrize("architecture", TEXT + VISION)
def test_the_update_is_alpha_over_r_times_b_a(load, batches, architecture):
    """Vectors with adapters equal those of W + alpha / r * B A written into a plain model."""
    encoder = load(architecture)
    plain = load(architecture)
    add_lora(encoder, config_for(architecture))
    stir(encoder)
    layers = plain.backbone.model
    with torch.no_grad():
        for name, layer in adapted_layers(encoder.backbone.model).items():
            update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            layers.get_submodule(name).weight += 8 / 4 * update
    inputs = batches[architecture]
    with torch.inference_mode():
        assert (encoder(inputs) - plain(inputs)).abs().max() <= 2e-5
        unchanged = load(architecture)(inputs)
        assert (encoder(inputs) - unchanged).abs().max() > 1e-2


@pytest.mark.parametrize("architecture", TEXT + VISION)
def test_a_saved_model_is_merged_and_plain_while_the_encoder_keeps_its_adapters(
    folders, batches, architecture, tmp_path
):
    inputs = batches[architecture]
    encoder, processor = load_encoder(folders[architecture], num_workers=1)
    processor.close()
    names = set(encoder.backbone.model.state_dict())
    save_encoder(tmp_path / "before", encoder, processor)
    add_lora(encoder, config_for(architecture))
    stir(encoder)
    with torch.inference_mode():
        expected = encoder(inputs)
    save_encoder(tmp_path / "after", encoder, processor)
    assert adapted_layers(encoder.backbone.model)
    with torch.inference_mode():
        assert torch.equal(encoder(inputs), expected)
    assert set(merged_weights(encoder.backbone.model)) == names
    before, after = (
        load_file(tmp_path / name / "model.safetensors") for name in ("before", "after")
    )
    assert before.keys() == after.keys()
    again, processor = load_encoder(tmp_path / "after", num_workers=1)
    processor.close()
    with torch.inference_mode():
        assert (again(inputs) - expected).abs().max() <= 2e-5


def test_merging_in_place_leaves_a_plain_model_that_trains(load, batches):
    encoder = load("qwen2_vl")
    names = [name for name, _ in encoder.named_parameters()]
    inputs = batches["qwen2_vl"]
    add_lora(encoder, ALL)
    stir(encoder)
    weights = merged_weights(encoder.backbone.model)
    with torch.inference_mode():
        expected = encoder(inputs)
    merge_lora(encoder)
    assert [name for name, _ in encoder.named_parameters()] == names
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    state = encoder.backbone.model.state_dict()
    assert all(torch.equal(state[name], weights[name]) for name in weights)
    with torch.inference_mode():
        assert (encoder(inputs) - expected).abs().max() <= 2e-5
    with pytest.raises(ConfigError, match="no adapter to merge"):
        merge_lora(encoder)
    add_lora(encoder, ALL)  # and again


def test_half_precision_weights_are_merged_in_float32(load):
    encoder = load("qwen2")
    encoder.to(torch.bfloat16)
    add_lora(encoder, LoraConfig(rank=2, alpha=3, targets=("q_proj",)))
    stir(encoder)
    [name, layer] = next(iter(adapted_layers(encoder.backbone.model).items()))
    b, a = (getattr(layer, f"lora_{half}")["default"].weight.float() for half in "BA")
    exact = layer.base_layer.weight.float() + 3 / 2 * (b @ a)
    assert torch.equal(
        merged_weights(encoder.backbone.model)[f"{name}.weight"], exact.to(torch.bfloat16)
    )


@pytest.mark.parametrize("architecture", TEXT + VISION)
def test_an_adapter_file_restores_the_vectors_exactly(load, batches, architecture, tmp_path):
    encoder = load(architecture)
    add_lora(encoder, config_for(architecture, dropout=0.1))
    stir(encoder)
    save_adapter(tmp_path / "adapter", encoder)
    fresh = load(architecture)
    load_adapter(fresh, tmp_path / "adapter")
    inputs = batches[architecture]
    encoder.eval()
    fresh.eval()
    with torch.inference_mode():
        assert torch.equal(fresh(inputs), encoder(inputs))
    assert fresh.backbone.model.peft_config["default"].lora_dropout == 0.1
    assert all((".lora_" in n) == p.requires_grad for n, p in fresh.named_parameters())
    with pytest.raises(ConfigError, match="has adapters already"):
        load_adapter(fresh, tmp_path / "adapter")


# peft asks the model for a name that newer transformers versions deprecate
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_reads_our_adapter_and_we_read_its_own(load, folders, tmp_path):
    from transformers import AutoModel

    encoder = load("qwen3_vl")
    add_lora(encoder, ALL)
    stir(encoder)
    save_adapter(tmp_path / "ours", encoder, base="a/base")
    theirs = peft.PeftModel.from_pretrained(
        AutoModel.from_pretrained(folders["qwen3_vl"]), tmp_path / "ours"
    )
    merged = theirs.merge_and_unload().state_dict()
    for name, tensor in merged_weights(encoder.backbone.model).items():
        assert (merged[name] - tensor).abs().max() <= 1e-6
    settings = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj"])
    model = peft.get_peft_model(AutoModel.from_pretrained(folders["qwen3_vl"]), settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "theirs")
    fresh = load("qwen3_vl")
    load_adapter(fresh, tmp_path / "theirs")
    expected = model.merge_and_unload().state_dict()
    for name, tensor in merged_weights(fresh.backbone.model).items():
        assert (expected[name] - tensor).abs().max() <= 1e-5


def damaged(folder, target, change):
    folder = shutil.copytree(folder, target)
    tensors = load_file(folder / ADAPTER_FILE)
    fields = json.loads((folder / ADAPTER_CONFIG_FILE).read_text())
    change(tensors, fields)
    save_file(tensors, folder / ADAPTER_FILE)
    (folder / ADAPTER_CONFIG_FILE).write_text(json.dumps(fields))
    return folder


KEY = "base_model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t, f: t.pop(KEY), f"missing {KEY}"),
        (lambda t, f: t.update({"base_model.model.extra": t[KEY].clone()}), "unused .*extra"),
        (lambda t, f: t.update({KEY: t[KEY][:1].clone()}), f"another shape {KEY}"),
        (lambda t, f: f["target_modules"].append("layers.7.mlp.up_proj"), "layers.7.mlp.up_proj"),
        (lambda t, f: f["target_modules"].remove("layers.1.self_attn.q_proj"), f"unused {KEY}"),
        (lambda t, f: f.update(use_dora=True), "use_dora"),
        (lambda t, f: f.update(peft_type="IA3"), "IA3"),
        (lambda t, f: f.update(init_lora_weights="pissa"), "pissa"),
        (lambda t, f: f.pop("r"), "'r'"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_and_changes_nothing(load, tmp_path, change, named):
    encoder = load("qwen2")
    add_lora(encoder, LoraConfig(rank=4, targets=("q_proj", "up_proj")))
    save_adapter(tmp_path / "whole", encoder)
    folder = damaged(tmp_path / "whole", tmp_path / "damaged", change)
    fresh = load("qwen2")
    with pytest.raises(CheckpointError, match=named):
        load_adapter(fresh, folder)
    assert not adapted_layers(fresh)


@pytest.mark.parametrize(
    ("architecture", "changes", "named"),
    [
        ("qwen2", {"targets": ("q_proj", "fc9")}, "ends with fc9; there are down_proj, gate_proj"),
        ("qwen2", {"rank": None}, "rank is null"),
        ("qwen2", {"targets": ()}, "all-linear"),
        ("qwen2_vl", {"targets": ("qkv",)}, "qkv"),
        ("qwen3", {"vision": True}, "takes text only"),
    ],
)
def test_settings_that_fit_nothing_are_named(load, architecture, changes, named):
    encoder = load(architecture)
    with pytest.raises(ConfigError, match=named):
        add_lora(encoder, LoraConfig(**{"rank": 2, **changes}))
    assert not adapted_layers(encoder)


def test_adapters_twice_or_none_to_save_are_refused(load, tmp_path):
    encoder = load("qwen2")
    with pytest.raises(ConfigError, match="no adapter to save"):
        save_adapter(tmp_path / "none", encoder)
    add_lora(encoder, LoraConfig(rank=16))
    with pytest.raises(ConfigError, match="has adapters already"):
        add_lora(encoder, LoraConfig(rank=16))
    with pytest.raises(CheckpointError, match="no readable adapter_model"):
        load_adapter(load("qwen2"), tmp_path / "none")


def test_a_seed_decides_the_start_and_leaves_the_global_state_alone(load):
    first, second, other = (load("qwen2") for _ in range(3))
    before = torch.get_rng_state()
    add_lora(first, LoraConfig(rank=16), seed=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    add_lora(second, LoraConfig(rank=16), seed=1)
    add_lora(other, LoraConfig(rank=16), seed=2)
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)
    name = "layers.0.mlp.up_proj"
    pair = [adapted_layers(e.backbone.model)[name].lora_A["default"].weight for e in (first, other)]
    assert not torch.equal(*pair)


def test_an_embedder_uses_adapters_like_any_model(load, folders):
    with Embedder.from_pretrained(folders["qwen2_vl"], num_workers=1) as embedder:
        before = embedder.encode(["a dog", picture(1)])
        add_lora(embedder.encoder, ALL)
        stir(embedder.encoder)
        adapted = embedder.encode(["a dog", picture(1)])
        assert np.abs(adapted - before).max(1).min() > 1e-2
        merge_lora(embedder.encoder)
        assert np.abs(embedder.encode(["a dog", picture(1)]) - adapted).max() <= 2e-5


def test_without_alpha_the_scale_is_one(load):
    encoder = load("qwen2")
    add_lora(encoder, LoraConfig(rank=3))
    assert {layer.scaling["default"] for layer in adapted_layers(encoder).values()} == {1.0}
