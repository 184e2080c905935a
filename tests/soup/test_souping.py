"""Soups: the mean of what belongs together, and a refusal by name of what does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmembed.encoder.checkpoint import (
    load_encoder,
    load_extra_tensors,
    read_description,
)
from mmembed.encoder.identity import EXTRA_TENSORS_FILE
from mmembed.errors import CheckpointError, ConfigError
from mmembed.inputs.collator import pack
from mmembed.soup import soup
from mmembed.soup.methods import cocktail_weights, slerp_fold
from mmembed.types import MultimodalInput


@pytest.fixture
def other(members: list[Path], tmp_path: Path) -> Path:
    """A copy of the second member to spoil."""
    return shutil.copytree(members[1], tmp_path / "other")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("given", [None, [1.0, 2.0, 5.0]])
def test_weights_are_the_weighted_mean_of_every_tensor(
    members: list[Path], tmp_path: Path, given: list[float] | None
):
    made = weights(soup(members, output=tmp_path / "soup", weights=given))
    parts = [weights(folder) for folder in members]
    shares = given or [1.0, 1.0, 1.0]
    for name, tensor in made.items():
        expected = sum(share * part[name] for share, part in zip(shares, parts, strict=True))
        torch.testing.assert_close(tensor, expected / sum(shares))
    theta = load_extra_tensors(tmp_path / "soup")["temperature.theta.a"].item()
    assert theta == pytest.approx(sum(s * n for n, s in enumerate(shares)) / sum(shares))


def test_soup_of_one_model_is_that_model_bit_by_bit(members: list[Path], tmp_path: Path):
    made = soup(members[:1], output=tmp_path / "soup")
    one, same = weights(members[0]), weights(made)
    assert list(one) == list(same)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert read_description(made)["fingerprint"] == read_description(members[0])["fingerprint"]


def test_soup_of_equal_models_is_that_model(members: list[Path], tmp_path: Path):
    made = soup([members[0]] * 2, output=tmp_path / "soup")
    one, same = weights(members[0]), weights(made)
    assert all(torch.equal(one[name], same[name]) for name in one)


def test_the_ends_of_a_slerp_are_the_members_bit_by_bit(members: list[Path], tmp_path: Path):
    for t, member in ((0.0, members[0]), (1.0, members[1])):
        made = soup(members[:2], output=tmp_path / "soup", method="slerp", t=t)
        one, same = weights(member), weights(made)
        assert all(torch.equal(one[name], same[name]) for name in one)
        extra, kept = load_extra_tensors(member), load_extra_tensors(made)
        assert all(torch.equal(extra[name], kept[name]) for name in extra)


def test_slerp_goes_tensor_by_tensor_and_the_extra_tensors_linearly(
    members: list[Path], tmp_path: Path
):
    made = soup(members, output=tmp_path / "soup", method="slerp")
    parts = [weights(folder) for folder in members]
    for name, tensor in weights(made).items():
        torch.testing.assert_close(tensor, slerp_fold([part[name] for part in parts]))
    extra = load_extra_tensors(made)
    assert extra["temperature.theta.a"].item() == pytest.approx(1.0)
    torch.testing.assert_close(extra["quantizer.step"], torch.full((4,), 0.2))


def test_a_temperature_that_some_members_lack_is_the_mean_of_the_others(
    members: list[Path], other: Path, tmp_path: Path
):
    save_file({"temperature.theta.b": torch.tensor(-2.0)}, other / EXTRA_TENSORS_FILE)
    folders = [members[0], other, members[2]]
    extra = load_extra_tensors(soup(folders, output=tmp_path / "soup", weights=[1, 1, 3]))
    assert extra["temperature.theta.a"].item() == pytest.approx((1 * 0.0 + 3 * 2.0) / 4)
    assert extra["temperature.theta.b"].item() == -2.0


def test_extra_tensors_of_other_shapes_are_refused(
    members: list[Path], other: Path, tmp_path: Path
):
    save_file({"quantizer.step": torch.ones(3)}, other / EXTRA_TENSORS_FILE)
    with pytest.raises(CheckpointError, match=r"quantizer.step is torch.float32 \(3,\)"):
        soup([members[0], other], output=tmp_path / "soup")


def test_cocktail_is_the_mean_by_losses_given_or_computed(members: list[Path], tmp_path: Path):
    losses = dict(zip(members, (1.0, 2.0, 4.0), strict=True))
    shares = cocktail_weights(list(losses.values()), 2.0)
    expected = weights(soup(members, output=tmp_path / "mean", weights=shares))
    for number, given in enumerate((list(losses.values()), losses.__getitem__)):
        made = soup(members, output=tmp_path / str(number), method="cocktail", losses=given,
                    temperature=2.0)  # fmt: skip
        assert all(torch.equal(expected[name], value) for name, value in weights(made).items())


def test_the_order_of_members_does_not_matter(members: list[Path], tmp_path: Path):
    one = weights(soup(members, output=tmp_path / "one", weights=[1, 2, 3]))
    other = weights(soup(members[::-1], output=tmp_path / "other", weights=[3, 2, 1]))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=1e-6, rtol=1e-6)


def test_soup_loads_and_embeds(members: list[Path], tmp_path: Path):
    made = soup(members, output=tmp_path / "soup")
    encoder, processor = load_encoder(made)
    with torch.no_grad():
        vector = encoder(pack([processor.prepare(MultimodalInput.of("a red apple"))]))
    assert vector.norm().item() == pytest.approx(1.0, abs=1e-5)
    fingerprints = [read_description(folder)["fingerprint"] for folder in [made, *members]]
    assert len(set(fingerprints)) == 4


def test_low_precision_members_are_averaged_in_float32(members: list[Path], tmp_path: Path):
    folders = []
    # 1 and 1 + 2^-7 are neighbours in bfloat16; thirds of them, summed in bfloat16, drift.
    for number, value in enumerate([1.0, 1.0, 1.0078125]):
        folder = shutil.copytree(members[0], tmp_path / str(number))
        tensors = {name: torch.full_like(tensor, value).bfloat16()
                   for name, tensor in weights(folder).items()}  # fmt: skip
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    made = weights(soup(folders, output=tmp_path / "soup"))
    assert {tensor.dtype for tensor in made.values()} == {torch.bfloat16}
    assert {float(tensor.flatten()[0]) for tensor in made.values()} == {1.0}


def spoil(folder: Path, change) -> None:
    tensors = weights(folder)
    change(tensors, next(name for name in tensors if name.endswith("down_proj.weight")))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, name: tensors.pop(name), r"it lacks \['.*down_proj.weight'\]"),
        (lambda tensors, name: tensors.update(extra=torch.ones(1)), r"adds \['extra'\]"),
        (
            lambda tensors, name: tensors.update({name: tensors[name][:1].clone()}),
            r"down_proj.weight is \('F32', \(1, ",
        ),
        (
            lambda tensors, name: tensors.update({name: tensors[name].half()}),
            r"down_proj.weight is \('F16'",
        ),
        (
            lambda tensors, name: tensors[name].view(-1)[3:4].fill_(torch.nan),
            "down_proj.weight has NaN",
        ),
    ],
    ids=["missing", "added", "shape", "dtype", "nan"],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    members: list[Path], other: Path, tmp_path: Path, change, message: str
):
    spoil(other, change)
    with pytest.raises(CheckpointError, match=message):
        soup([members[0], other], output=tmp_path / "soup")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


def edit(path: Path, *keys: str, value: object) -> None:
    fields = json.loads(path.read_text())
    node = fields
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("file", "keys", "value", "message"),
    [
        (
            "mmembed.json",
            ("encoder", "pooling"),
            "mean",
            'encoder settings differs in \'pooling\' ."mean" there, "last_token" in m0',
        ),
        ("mmembed.json", ("encoder", "attention"), "both", "differs in 'attention' .\"both\""),
        ("mmembed.json", ("inputs", "position_ids"), "flat", "differs in 'position_ids'"),
        ("mmembed.json", ("inputs", "prompt", "note"), "x", r"differs in 'prompt.note'"),
        ("mmembed.json", ("inputs", "num_frames"), 3, "input settings differs in 'num_frames'"),
        ("config.json", ("hidden_act",), "gelu", "the architecture differs in"),
        ("tokenizer.json", ("version",), "2.0", "the tokenizer differs in 'tokenizer.json'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(
    members: list[Path], other: Path, tmp_path: Path, file: str, keys, value, message: str
):
    edit(other / file, *keys, value=value)
    with pytest.raises(CheckpointError, match=message):
        soup([members[0], other], output=tmp_path / "soup")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoints": []}, "at least one checkpoint"),
        ({"weights": [1.0]}, "1 weights for 2 checkpoints"),
        ({"weights": [0.0, 0.0]}, "not all 0"),
        ({"weights": [1.0, float("nan")]}, "finite"),
        ({"weights": [1.0, -1.0]}, ">= 0"),
        ({"method": "cubic"}, "methods: linear, slerp, greedy, cocktail, lora"),
        ({"method": "slerp", "weights": [1.0, 1.0]}, "weights is not for the method slerp"),
        ({"method": "slerp", "t": 1.5}, "t is 1.5 for 2 checkpoints"),
        ({"method": "slerp", "t": 0.5, "checkpoints": ["a"] * 3}, "t is 0.5 for 3 checkpoints"),
        ({"t": 0.5}, "t is not for the method linear, but for slerp"),
        ({"method": "greedy"}, "the method greedy needs score"),
        ({"method": "cocktail"}, "the method cocktail needs losses"),
        ({"method": "cocktail", "losses": [1.0]}, "1 losses for 2 checkpoints"),
    ],
)
def test_impossible_requests_are_refused(
    members: list[Path], tmp_path: Path, options: dict, message: str
):
    with pytest.raises(ConfigError, match=message):
        soup(**{"checkpoints": members[:2], "output": tmp_path / "soup", **options})
    assert not list(tmp_path.iterdir())


def test_folder_that_is_no_model_is_not_overwritten(members: list[Path], tmp_path: Path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(CheckpointError, match="not a model folder"):
        soup(members, output=tmp_path)
    assert (tmp_path / "precious.txt").exists()


def test_an_earlier_model_is_replaced_only_by_a_finished_one(
    members: list[Path], other: Path, tmp_path: Path
):
    made = soup(members[:1], output=tmp_path / "soup")
    before = weights(made)
    spoil(other, lambda tensors, name: tensors[name].fill_(torch.inf))
    with pytest.raises(CheckpointError, match="infinite"):
        soup([members[0], other], output=made)
    assert all(torch.equal(before[name], value) for name, value in weights(made).items())
    soup(members[1:2], output=made)
    expected = weights(members[1])
    assert all(torch.equal(expected[name], value) for name, value in weights(made).items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "soup"]


@pytest.mark.parametrize("method", ["linear", "greedy"])
def test_ctrl_c_leaves_nothing_behind(members: list[Path], tmp_path: Path, method: str):
    seen = []

    def interrupt(folder: Path) -> float:
        seen.append(folder)
        if folder not in members:  # the soup, or a candidate of it
            assert weights(folder), "it is whole"
            raise KeyboardInterrupt
        return 0.0

    options = {"score": interrupt} if method == "greedy" else {"evaluate": interrupt}
    with pytest.raises(KeyboardInterrupt):
        soup(members, output=tmp_path / "soup", method=method, **options)
    assert len(seen) == 4
    assert not list(tmp_path.iterdir())


def test_output_may_not_be_a_member(members: list[Path]):
    with pytest.raises(ConfigError, match="one of the members"):
        soup(members, output=members[0])
