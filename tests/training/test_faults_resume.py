"""Wherever a run is interrupted, going on gives every bit of the straight run."""

from __future__ import annotations

import signal
from functools import cache
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mmembed.config.files import parse_recipe
from mmembed.config.recipe import Recipe
from mmembed.data.loader import BatchLoader
from mmembed.errors import ConfigError
from mmembed.training import stages
from mmembed.training.stages import TrainResult
from mmembed.training.step_folders import checkpoints, read_state, step_of
from tests.training.fault_client import digests, loss_curve
from tests.training.pairs import ColourPairs

# Four batches in an epoch. What is learnt besides the encoder is in it, too.
RECIPE = """
model: {{path: {checkpoint}}}
defaults: {{batch_size: 6, learning_rate: 3e-3, epochs: 2, warmup_ratio: 0.2}}
stages:
  - data: [{{adapter: "tests.training.pairs:ColourPairs", arguments: {{pictures: false}}}}]
    temperature: {{init: 0.05, learnable: true}}
    loss: {{quantization: {{bits: int8}}}}
"""
EVERY_KIND = {
    "whole": (),
    "chunks": ("stages.0.chunk_tokens=64",),
    "adapters": ("stages.0.lora={rank: 2}",),
}


def recipe(checkpoint: Path, *overrides: str) -> Recipe:
    return parse_recipe(RECIPE.format(checkpoint=checkpoint), overrides=overrides)


def train(settings: Recipe, output: Path) -> TrainResult:
    return stages.train(settings, output=output, cpu=True)


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    """The next runs get a signal during this step of theirs."""

    class Stopping(BatchLoader):
        def __iter__(self):
            for count, batch in enumerate(super().__iter__(), start=1):
                if count == step:
                    signal.raise_signal(number)
                yield batch

    monkeypatch.setattr("mmembed.training.trainer.BatchLoader", Stopping)


@pytest.fixture(scope="module")
def straight(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory):
    @cache
    def run(kind: str) -> Path:
        output = tmp_path_factory.mktemp("straight") / kind
        train(recipe(tiny_checkpoint, *EVERY_KIND[kind]), output)
        return output

    return run


@pytest.mark.parametrize(
    ("kind", "step", "num_workers"),
    [
        ("whole", 1, 0),
        ("whole", 3, 2),
        ("whole", 4, 0),  # the end of an epoch
        ("whole", 4, 2),
        ("whole", 7, 2),  # one before the last
        ("chunks", 3, 0),
        ("chunks", 4, 2),
        ("adapters", 5, 2),
        ("adapters", 7, 0),
    ],
)
def test_resume_is_exact(
    kind: str, step: int, num_workers: int, straight, tiny_checkpoint: Path, tmp_path: Path
):
    settings = recipe(tiny_checkpoint, *EVERY_KIND[kind], f"stages.0.num_workers={num_workers}")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, step)
        stopped = train(settings, tmp_path / "run")
    assert (stopped.stopped_by, stopped.model.name) == (signal.SIGTERM, f"step-{step:06d}")
    assert train(settings, tmp_path / "run").stopped_by is None
    expected = straight(kind)
    assert loss_curve(tmp_path / "run" / "stage1") == loss_curve(expected / "stage1")
    found, wanted = (digests(folder / "model") for folder in (tmp_path / "run", expected))
    told = {"manifest.json", "mmembed.json"}  # they hold the recipe, whose num_workers differ
    assert {k: v for k, v in found.items() if k not in told} == {
        k: v for k, v in wanted.items() if k not in told
    }


def test_a_request_in_the_last_step_of_a_stage_stops_before_the_next_stage(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fields = recipe(tiny_checkpoint, "stages.0.epochs=0.5").model_dump(mode="json")
    two = Recipe.model_validate(fields | {"stages": fields["stages"] * 2})
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        stopped = train(two, tmp_path)
    assert stopped.stopped_by == signal.SIGTERM
    assert stopped.model == tmp_path / "stage1" / "model"
    assert not (tmp_path / "stage2").exists()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert train(two, tmp_path).stopped_by is None  # there was nothing left to stop
    assert (tmp_path / "model").is_dir()


def test_an_interruption_does_not_change_which_checkpoints_are_averaged(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = recipe(
        tiny_checkpoint, "stages.0.save_every=2", "soup={method: linear, checkpoints: 3}"
    )
    expected = train(settings, tmp_path / "straight")
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        train(settings, tmp_path / "run")
    assert [step_of(path) for path in checkpoints(tmp_path / "run" / "stage1")] == [2, 4, 6, 7]
    again = train(settings, tmp_path / "run")
    assert [path.name for path in again.members] == [path.name for path in expected.members]
    names = "model.safetensors"
    assert digests(again.model)[names] == digests(expected.model)[names]


@pytest.fixture
def interrupted(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """`run` holds a checkpoint that started from a copy of the model, and has a prompt file."""
    model = tmp_path / "start"
    model.mkdir()
    for path in tiny_checkpoint.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    prompt = tmp_path / "prompt.json"
    prompt.write_text('{"name": "mine", "template": "{content}<|endoftext|>"}')
    settings = recipe(model, f"model.prompt={prompt}")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        train(settings, tmp_path / "run")
    return settings


def test_changed_data_are_refused_by_name(
    interrupted: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ColourPairs, "revision", "2")
    with pytest.raises(
        ConfigError, match=r"data names \(revision 1, 24 rows -> revision 2, 24 rows\)"
    ):
        train(interrupted, tmp_path / "run")


def test_changed_weights_of_the_start_are_refused(interrupted: Recipe, tmp_path: Path):
    path = tmp_path / "start" / "model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).add_(1)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"this has changed: model \("):
        train(interrupted, tmp_path / "run")


def test_a_changed_prompt_file_is_refused(interrupted: Recipe, tmp_path: Path):
    (tmp_path / "prompt.json").write_text(
        '{"name": "mine", "template": "<s>{content}<|endoftext|>"}'
    )
    with pytest.raises(ConfigError, match=r"this has changed: model.prompt \("):
        train(interrupted, tmp_path / "run")


def test_a_damaged_newest_checkpoint_costs_steps_but_no_bit(
    straight, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    settings = recipe(tiny_checkpoint, "stages.0.save_every=2")
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        train(settings, tmp_path / "run")
    stage = tmp_path / "run" / "stage1"
    newest = checkpoints(stage)[-1]
    assert read_state(newest).step == 5
    (newest / "training" / "optimizer.safetensors").write_bytes(b"")
    train(settings, tmp_path / "run")
    assert "step-000005/training/optimizer.safetensors differs from its checksum" in caplog.text
    assert loss_curve(stage) == loss_curve(straight("whole") / "stage1")
    assert [step_of(path) for path in checkpoints(stage)] == [4, 6]
