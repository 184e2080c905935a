"""Soups of LoRA adapters: the mean of the products, kept or merged."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mmembed.encoder.checkpoint import load_encoder, load_extra_tensors, read_description
from mmembed.encoder.identity import EXTRA_TENSORS_FILE
from mmembed.errors import CheckpointError, ConfigError
from mmembed.soup import soup
from mmembed.soup.adapters import concatenate_ranks, mean_of_products, read_adapter

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())
CASE = next(case for case in GOLDEN["tests"] if case["id"] == "merge_lora_soup")
MODULES = ("language_model.layers.0.self_attn.q_proj", "visual.blocks.1.attn.qkv")


def products(adapter_folder: Path) -> dict[str, torch.Tensor]:
    """Delta W of each module, the slow obvious way: every key of peft's format by hand."""
    config = json.loads((adapter_folder / "adapter_config.json").read_text())
    tensors = load_file(adapter_folder / "adapter_model.safetensors")
    found = {}
    for module in MODULES:
        a, b = (tensors[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
        alpha = config["lora_alpha"]
        for pattern, value in config.get("alpha_pattern", {}).items():
            alpha = value if pattern.lstrip("^").replace("\\", "") == module else alpha
        rank = a.shape[0]
        scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        found[module] = scaling * (b.double() @ a.double())
    return found


def make_adapter(folder: Path, base: Path, seed: int, *, rank: int = 2, **config: Any) -> Path:
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tensor.shape for name, tensor in load_file(base / "model.safetensors").items()}
    tensors = {}
    for module in MODULES:
        rows, columns = shapes[f"{module}.weight"]
        for side, shape in (("A", (rank, columns)), ("B", (rows, rank))):
            made = torch.randn(shape, generator=generator)
            tensors[f"base_model.model.{module}.lora_{side}.weight"] = made
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    fields = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 4,
        "target_modules": list(MODULES),
        "base_model_name_or_path": "the/base",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture
def pair(members: list[Path], tmp_path: Path) -> list[Path]:
    """Adapters of other ranks and scalings."""
    return [
        make_adapter(tmp_path / "a", members[0], 1),
        make_adapter(tmp_path / "b", members[0], 2, rank=3, lora_alpha=12, use_rslora=True),
    ]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)], ids=str
)
def test_the_mean_is_that_of_the_products_and_not_of_the_factors(
    dtype: torch.dtype, tolerance: float
) -> None:
    inputs, expected = CASE["inputs"], CASE["expected"]
    factors = [
        tuple(torch.tensor(inputs[side + number], dtype=dtype) for side in "AB") for number in "12"
    ]
    scalings = [inputs["scaling"]] * 2
    wanted = torch.tensor(expected["delta_W"], dtype=dtype)
    made = mean_of_products(factors, scalings, inputs["w"])
    torch.testing.assert_close(made, wanted, atol=tolerance, rtol=0)
    a, b = concatenate_ranks(factors, scalings, inputs["w"], scaling=1.0)
    torch.testing.assert_close(b @ a, wanted, atol=tolerance, rtol=0)
    assert not torch.allclose(made, torch.tensor(expected["WRONG_separate_means"], dtype=dtype))


@given(
    st.integers(0, 2**31),
    st.lists(st.tuples(st.integers(1, 4), st.floats(0.1, 8), st.floats(0, 1)), min_size=1,
             max_size=4),
    st.floats(0.1, 4),
)  # fmt: skip
def test_concatenated_ranks_have_the_mean_product(
    seed: int, parts: list[tuple[int, float, float]], scaling: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    factors = [
        tuple(torch.randn(shape, generator=generator, dtype=torch.float64)
              for shape in ((rank, 5), (6, rank)))
        for rank, _, _ in parts
    ]  # fmt: skip
    scalings, weights = [part[1] for part in parts], [part[2] for part in parts]
    a, b = concatenate_ranks(factors, scalings, weights, scaling=scaling)
    wanted = mean_of_products(factors, scalings, weights)
    torch.testing.assert_close(scaling * b @ a, wanted, atol=1e-9, rtol=1e-9)


def test_a_soup_of_adapters_is_an_adapter_with_the_mean_products(
    pair: list[Path], tmp_path: Path
) -> None:
    theta = {"temperature.theta.a": torch.tensor(-3.0)}
    save_file(theta, pair[0] / EXTRA_TENSORS_FILE)
    made = soup(pair, output=tmp_path / "soup", method="lora", weights=[1, 3])
    parts = [products(folder) for folder in pair]
    for module, change in products(made).items():
        wanted = 0.25 * parts[0][module] + 0.75 * parts[1][module]
        torch.testing.assert_close(change, wanted, atol=1e-5, rtol=1e-5)
    assert json.loads((made / "adapter_config.json").read_text())["r"] == 5
    turned = soup(pair[::-1], output=tmp_path / "turned", method="lora", weights=[3, 1])
    for module, change in products(turned).items():
        torch.testing.assert_close(change, products(made)[module], atol=1e-5, rtol=1e-5)
    assert load_extra_tensors(made)["temperature.theta.a"] == -3.0
    assert read_adapter(made).modules, "and it can be souped again"


def test_a_soup_of_one_adapter_is_that_adapter_bit_by_bit(pair: list[Path], tmp_path: Path) -> None:
    made = soup(pair[:1], output=tmp_path / "soup", method="lora")
    one, same = (load_file(folder / "adapter_model.safetensors") for folder in (pair[0], made))
    assert one.keys() == same.keys()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert read_adapter(made).scaling(MODULES[0]) == read_adapter(pair[0]).scaling(MODULES[0])


@pytest.fixture
def odd(members: list[Path], tmp_path: Path) -> Path:
    """An adapter whose modules differ in rank and alpha."""
    odd = make_adapter(tmp_path / "odd", members[0], 5, alpha_pattern={"attn.qkv": 10})
    tensors = load_file(odd / "adapter_model.safetensors")
    for side, axis in (("A", 0), ("B", 1)):
        name = f"base_model.model.{MODULES[1]}.lora_{side}.weight"
        tensors[name] = torch.cat([tensors[name]] * 2, dim=axis)
    save_file(tensors, odd / "adapter_model.safetensors")
    return odd


def test_ranks_and_alphas_of_single_modules_are_kept_apart(
    odd: Path, pair: list[Path], tmp_path: Path
) -> None:
    assert read_adapter(odd).scaling(MODULES[1]) == 10 / 4
    made = soup([odd, pair[0]], output=tmp_path / "soup", method="lora")
    config = json.loads((made / "adapter_config.json").read_text())
    assert (config["r"], list(config["rank_pattern"].values())) == (4, [6])
    ours = products(odd)
    ours[MODULES[1]] *= 10 / 4
    for module, change in products(made).items():
        wanted = (ours[module] + products(pair[0])[module]) / 2
        torch.testing.assert_close(change, wanted, atol=1e-5, rtol=1e-5)


def test_merging_adds_the_mean_products_to_the_base(
    members: list[Path], pair: list[Path], tmp_path: Path
) -> None:
    made = soup(pair, output=tmp_path / "soup", method="lora", base=members[0])
    before, after = (load_file(folder / "model.safetensors") for folder in (members[0], made))
    parts = [products(folder) for folder in pair]
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        module = name.removesuffix(".weight")
        if module not in MODULES:
            assert torch.equal(tensor, before[name])
            continue
        wanted = before[name].double() + 0.5 * (parts[0][module] + parts[1][module])
        torch.testing.assert_close(tensor, wanted.float(), atol=1e-5, rtol=1e-5)
    assert read_description(made)["fingerprint"] != read_description(members[0])["fingerprint"]
    load_encoder(made)


def test_the_base_may_name_its_tensors_after_another_class(
    tiny_checkpoint: Path, members: list[Path], pair: list[Path], tmp_path: Path
) -> None:
    # the published layout: model.layers.0... instead of language_model.layers.0...
    made = soup(pair, output=tmp_path / "soup", method="lora", base=tiny_checkpoint)
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_checkpoint, made))
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"model.layers.0.self_attn.q_proj.weight", "visual.blocks.1.attn.qkv.weight"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; allowed: 'LORA'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base"),
        ({"lora_alpha": 0}, "lora_alpha is 0"),
        ({"base_model_name_or_path": "x"}, "base_model_name_or_path is 'x' there, 'the/base' in a"),
    ],
)
def test_adapters_that_have_no_mean_product_are_refused(
    members: list[Path], tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    first = make_adapter(tmp_path / "a", members[0], 1)
    other = make_adapter(tmp_path / "b", members[0], 2, **config)
    with pytest.raises(CheckpointError, match=message):
        soup([first, other], output=tmp_path / "soup", method="lora")
    assert not (tmp_path / "soup").exists()


def test_adapters_of_other_modules_or_shapes_are_refused_by_name(
    pair: list[Path], tmp_path: Path
) -> None:
    path = pair[1] / "adapter_model.safetensors"
    name = f"base_model.model.{MODULES[0]}.lora_B.weight"
    full = load_file(path)
    for change, message in (
        ({name: full[name][:-1].clone()}, "q_proj.lora_B.weight is F32"),
        ({name: full[name][:, :1].clone()}, "rank 3 in A, 1 in B"),
        ({name: full[name].half()}, "q_proj.lora_B.weight is F16"),
        ({"base_model.model.head.weight": torch.ones(2, 2)}, "head.weight .* not a factor"),
    ):
        save_file({**full, **change}, path)
        with pytest.raises(CheckpointError, match=message):
            soup(pair, output=tmp_path / "soup", method="lora")
    save_file({key: value for key, value in full.items() if "qkv" not in key}, path)
    with pytest.raises(CheckpointError, match=r"it lacks \['visual.blocks.1.attn.qkv'\]"):
        soup(pair, output=tmp_path / "soup", method="lora")


def test_adapters_and_models_are_not_mixed_up(
    members: list[Path], pair: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"is an adapter; .* the method lora"):
        soup(pair, output=tmp_path / "soup")
    with pytest.raises(CheckpointError, match="is not an adapter"):
        soup(members, output=tmp_path / "soup", method="lora")
    with pytest.raises(ConfigError, match="base is not for the method linear, but for lora"):
        soup(members, output=tmp_path / "soup", base=members[0])


def test_a_base_without_the_module_is_refused(
    members: list[Path], pair: list[Path], tmp_path: Path
) -> None:
    base = shutil.copytree(members[0], tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    weight = tensors.pop(f"{MODULES[0]}.weight")
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(CheckpointError, match="has 0 weights"):
        soup(pair, output=tmp_path / "soup", method="lora", base=base)
    save_file({**tensors, f"{MODULES[0]}.weight": weight[:1].clone()}, base / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"in .*base it is \(1, "):
        soup(pair, output=tmp_path / "soup", method="lora", base=base)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_reads_the_soup_as_we_do(
    members: list[Path], odd: Path, pair: list[Path], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft", exc_type=ImportError)
    made = soup([*pair, odd], output=tmp_path / "soup", method="lora", weights=[1, 3, 1])
    encoder, _ = load_encoder(members[0])
    model = encoder.backbone.model
    before = {name: model.get_submodule(name).weight.clone() for name in MODULES}
    merged = peft.PeftModel.from_pretrained(model, str(made)).merge_and_unload()
    for name, change in products(made).items():
        moved = merged.get_submodule(name).weight - before[name]
        torch.testing.assert_close(moved, change.float(), atol=1e-4, rtol=1e-4)
