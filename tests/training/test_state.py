"""A checkpoint is whole or it is not there; a damaged one is named and passed over."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mmembed.encoder.checkpoint import load_encoder
from mmembed.errors import CheckpointError
from mmembed.losses.info_nce import InfoNCE
from mmembed.losses.quantization import QuantizationAware
from mmembed.losses.sigmoid import Sigmoid
from mmembed.losses.temperature import Temperature
from mmembed.training import state, step_folders
from mmembed.training.objectives import Objectives
from mmembed.training.step_folders import TrainingState


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
    newest = step_folders.latest_checkpoint(run)
    assert newest == run / "step-000002"
    assert step_folders.read_state(newest) == TrainingState(2, 0, 2, "f")


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_damage_to_any_file_is_named_and_the_checkpoint_before_is_taken(
    copied: Path, damage: str, caplog: pytest.LogCaptureFixture
):
    newest = copied / "step-000002"
    for path in sorted(path for path in newest.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if damage == "delete":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(content[: len(content) // 2])
        else:
            middle = len(content) // 2
            path.write_bytes(
                content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            )
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert step_folders.latest_checkpoint(copied) == copied / "step-000001"
        assert "step-000002" in caplog.text and path.name in caplog.text
        path.write_bytes(content)
    assert step_folders.latest_checkpoint(copied) == newest


def test_folder_without_manifest_is_no_checkpoint(copied: Path):
    (copied / "step-000002" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        step_folders.read_manifest(copied / "step-000002")


def test_half_written_folder_is_not_looked_at(copied: Path):
    (copied / "step-000002").rename(copied / ".step-000003.tmp-1234")
    assert step_folders.latest_checkpoint(copied) == copied / "step-000001"


def test_optimizer_and_all_that_is_learnt_come_back_bit_by_bit(run: Path):
    encoder, _ = load_encoder(run / "step-000002")
    objectives = objectives_of_two_tasks()
    untrained = {name: value.clone() for name, value in objectives.state_dict().items()}
    optimizer = torch.optim.AdamW([*encoder.parameters(), *objectives.parameters()], lr=1e-3)
    state.load_objectives(objectives, run / "step-000002")
    state.load_optimizer(optimizer, encoder, objectives, run / "step-000002")
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


# -- which ones are kept; these checkpoints hold one line each --------------------------------


def commit(folder: Path, step: int, score: float | None = None) -> Path:
    place = TrainingState(step, 0, step, "f", {"data": "1"}, score)
    checkpoint = step_folders.checkpoint_folder(folder, step)
    with step_folders.new_checkpoint(checkpoint, place) as aside:
        (aside / "training").mkdir(parents=True)
        (aside / "weights").write_text(str(step))
    return checkpoint


def steps(folder: Path) -> list[int]:
    return [step_folders.step_of(path) for path in step_folders.checkpoints(folder)]


def test_the_newest_checkpoints_and_the_best_one_stay(tmp_path: Path):
    for step, score in ((2, 0.1), (4, 0.5), (6, 0.5), (8, 0.2), (10, None)):
        commit(tmp_path, step, score)
        step_folders.remove_older_checkpoints(tmp_path, kept=2)
    assert steps(tmp_path) == [4, 8, 10]
    best = step_folders.best_checkpoint(tmp_path)
    assert best == tmp_path / "step-000004"
    model = step_folders.publish_checkpoint(best, tmp_path / "model")
    assert step_folders.read_state(model) == TrainingState(4, 0, 4, "f", {"data": "1"}, 0.5)
    assert (model / "weights").read_text() == "4"
    assert not (model / "training").exists()
    assert step_folders.read_manifest(model)["files"].keys() == {"weights", "training_state.json"}


def test_a_damaged_best_checkpoint_gives_way_to_the_next_best(tmp_path: Path):
    for step, score in ((1, 0.9), (2, 0.3), (3, 0.6)):
        commit(tmp_path, step, score)
    (tmp_path / "step-000001" / "weights").write_text("damaged")
    assert step_folders.best_checkpoint(tmp_path) == tmp_path / "step-000003"
    with pytest.raises(CheckpointError, match="step-000001/weights differs"):
        step_folders.publish_checkpoint(tmp_path / "step-000001", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_damaged_checkpoints_do_not_count_as_kept(tmp_path: Path):
    for step in (1, 2, 3, 4):
        commit(tmp_path, step)
    for step in (3, 4):
        (step_folders.checkpoint_folder(tmp_path, step) / "weights").write_text("damaged")
    step_folders.remove_older_checkpoints(tmp_path, kept=3)
    assert steps(tmp_path) == [1, 2, 3, 4]
    commit(tmp_path, 5)
    step_folders.remove_older_checkpoints(tmp_path, kept=2)
    assert steps(tmp_path) == [2, 5]


def test_checkpoints_of_interruptions_take_no_place_of_regular_ones(tmp_path: Path):
    for step in (2, 4, 5):
        commit(tmp_path, step)
        step_folders.remove_older_checkpoints(tmp_path, kept=2, every=2)
    assert steps(tmp_path) == [2, 4, 5]
    commit(tmp_path, 6)
    step_folders.remove_older_checkpoints(tmp_path, kept=2, every=2)
    assert steps(tmp_path) == [4, 6]


def test_what_killed_processes_leave_is_removed_and_nothing_else(tmp_path: Path):
    commit(tmp_path, 1)
    for name in (".step-000002.tmp-0123abcd", "..step-000002.tmp-0123abcd.tmp-4567cdef",
                 ".step-000001.old-0123abcd"):  # fmt: skip
        (tmp_path / name / "training").mkdir(parents=True)
    (tmp_path / ".tmp-17-recipe.yaml").write_text("")
    (tmp_path / ".notes").mkdir()
    step_folders.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes", "step-000001"]


def test_a_save_that_fails_says_what_to_do_and_leaves_an_earlier_folder(tmp_path: Path):
    commit(tmp_path, 1)
    with (
        pytest.raises(OSError, match=r"step-000001 could not be written .*Make room"),
        step_folders.new_checkpoint(tmp_path / "step-000001", TrainingState(1, 0, 1, "f")) as aside,
    ):
        aside.mkdir()
        raise OSError(28, "No space left on device")
    assert steps(tmp_path) == [1]
    assert len(list(tmp_path.iterdir())) == 1
    assert step_folders.is_intact(tmp_path / "step-000001")


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_in_a_checkpoint_is_never_executed(copied: Path, tmp_path: Path):
    canary = tmp_path / "executed"
    newest = copied / "step-000002"
    planted = pickle.dumps(_Canary(canary))
    for name in ("pytorch_model.bin", "optimizer.pt", "training/scaler.pkl", "random_states_0.pkl"):
        (newest / name).write_bytes(planted)
    assert step_folders.latest_checkpoint(copied) == newest
    encoder, _ = load_encoder(newest)
    objectives = objectives_of_two_tasks()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *objectives.parameters()], lr=1e-3)
    state.load_objectives(objectives, newest)
    state.load_optimizer(optimizer, encoder, objectives, newest)
    for name in ("training/optimizer.safetensors", "mmembed_extra.safetensors"):
        (newest / name).write_bytes(planted)
    with pytest.raises(SafetensorError):
        state.load_optimizer(optimizer, encoder, objectives, newest)
    with pytest.raises(SafetensorError):
        state.load_objectives(objectives, newest)
    assert not canary.exists()
    pickle.loads(planted)
    assert canary.exists()
