"""A checkpoint is whole or it is not there; a damaged one is named and passed over."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from mmembed.encoder.checkpoint import load_encoder
from mmembed.errors import CheckpointError
from mmembed.losses.info_nce import InfoNCE
from mmembed.losses.quantization import QuantizationAware
from mmembed.losses.sigmoid import Sigmoid
from mmembed.losses.temperature import Temperature
from mmembed.training import state
from mmembed.training.objectives import Objectives
from mmembed.training.state import TrainingState


def objectives_of_two_tasks() -> Objectives:
    losses = {"retrieval": QuantizationAware(InfoNCE(), "int8"), "qa": Sigmoid()}
    return Objectives(losses, Temperature(["a", "b"], learnable=True, per_task=True))


@pytest.fixture(scope="module")
def run(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1 and 2 after two optimizer steps each."""
    folder = tmp_path_factory.mktemp("run")
    encoder, processor = load_encoder(tiny_checkpoint)
    objectives = objectives_of_two_tasks()
    parameters = [*encoder.parameters(), *objectives.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    for step in (1, 2):
        loss = sum(parameter.square().sum() for parameter in parameters)
        loss.backward()
        optimizer.step()
        state.save_checkpoint(
            folder / f"step-{step:06d}",
            encoder,
            processor,
            objectives,
            TrainingState(step=step, epoch=0, batch=step, fingerprint="f"),
            optimizer=optimizer,
            recipe={},
        )
    return folder


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    for source in run.rglob("*"):
        if source.is_file():
            target = tmp_path / "run" / source.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return tmp_path / "run"


def test_nothing_is_left_beside_the_checkpoints(run: Path):
    assert sorted(path.name for path in run.iterdir()) == ["step-000001", "step-000002"]


def test_checkpoint_holds_safetensors_json_and_text_only(run: Path):
    suffixes = {path.suffix for path in run.rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".jinja", ".txt"}


def test_newest_checkpoint_is_found_with_its_place_in_the_data(run: Path):
    newest = state.latest_checkpoint(run)
    assert newest == run / "step-000002"
    assert state.read_state(newest) == TrainingState(2, 0, 2, "f")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "training/optimizer.safetensors", "config.json", "manifest.json"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    copied: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
):
    path = copied / "step-000002" / name
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        newest = state.latest_checkpoint(copied)
    if name == "manifest.json" and damage == "flip":
        assert newest is not None  # a flipped bit may leave a manifest that still fits
        return
    assert newest == copied / "step-000001"
    assert "step-000002" in caplog.text


def test_folder_without_manifest_is_no_checkpoint(copied: Path):
    (copied / "step-000002" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        state.read_manifest(copied / "step-000002")


def test_half_written_folder_is_not_looked_at(copied: Path):
    (copied / "step-000002").rename(copied / ".step-000003.tmp-1234")
    assert state.latest_checkpoint(copied) == copied / "step-000001"


def test_optimizer_and_all_that_is_learnt_come_back_bit_by_bit(run: Path):
    encoder, _ = load_encoder(run / "step-000002")
    objectives = objectives_of_two_tasks()
    untrained = {name: value.clone() for name, value in objectives.state_dict().items()}
    optimizer = torch.optim.AdamW([*encoder.parameters(), *objectives.parameters()], lr=1e-3)
    state.load_objectives(objectives, run / "step-000002")
    state.load_optimizer(optimizer, encoder, objectives, run / "step-000002")
    from safetensors.torch import load_file

    stored = load_file(run / "step-000002" / "training" / "optimizer.safetensors")
    back = state.optimizer_tensors(optimizer, encoder, objectives)
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], stored[name]) for name in stored)
    trained = objectives.state_dict()
    changed = [name for name in trained if not torch.equal(trained[name], untrained[name])]
    assert set(changed) >= {"temperature.theta.0", "temperature.theta.1", "learnt.qa.bias"}
    assert torch.isfinite(torch.stack(list(trained.values()))).all()


def test_failed_save_leaves_nothing(run: Path, tmp_path: Path, tiny_checkpoint: Path):
    encoder, processor = load_encoder(tiny_checkpoint)
    with pytest.raises(AttributeError):
        state.save_checkpoint(
            tmp_path / "step-000001",
            encoder,
            processor,
            Objectives({}, Temperature(["a"])),
            TrainingState(1, 0, 1, "f"),
            optimizer="not an optimizer",  # type: ignore[arg-type]
            recipe={},
        )
    assert list(tmp_path.iterdir()) == []
