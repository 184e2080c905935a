"""Training on kept features of a frozen tower is training through the tower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError
from torch.nn.modules.module import register_module_forward_pre_hook

from mmembed.config.files import parse_recipe
from mmembed.config.recipe import Recipe
from mmembed.config.stage import StageConfig
from mmembed.data.loader import BatchLoader
from mmembed.errors import ConfigError
from mmembed.training import stages
from mmembed.training.metrics import read_metrics
from mmembed.training.optim import freeze_parameters
from tests.training.steps import Step
from tests.training.test_grad_cache import ROUNDING, difference
from tests.training.test_training import _Interrupting

# 12 pictures of 6 colours, so 6 different ones, of 4 patch rows each
ROWS = {"adapter": "tests.training.pairs:ColourPairs", "arguments": {"size": 12}}
PICTURES, PATCHES = 6, 4


def recipe(checkpoint: Path, *overrides: str, freeze: str = "[visual]") -> Recipe:
    return parse_recipe(
        f"""
model: {{path: {checkpoint}, image_tokens: {{min: 1, max: 4}}}}
defaults: {{batch_size: 4, learning_rate: 1e-3, epochs: 3}}
stages:
  - data: [{{adapter: "{ROWS["adapter"]}", arguments: {{size: 12}}}}]
    temperature: {{init: 0.05}}
    freeze: {freeze}
""",
        overrides=overrides,
    )


def losses(run: Path) -> list[float]:
    return [float(row["loss"]) for row in read_metrics(run / "stage1" / "metrics.jsonl")]


@contextmanager
def tower_runs() -> Iterator[list[int]]:
    """Patch rows of each run of any vision tower."""
    rows: list[int] = []

    def count(module: object, arguments: tuple) -> None:
        if type(module).__name__ == "PatchEmbed":
            rows.append(len(arguments[0]))

    handle = register_module_forward_pre_hook(count)
    try:
        yield rows
    finally:
        handle.remove()


@pytest.mark.parametrize("chunk_tokens", ["null", "60"])
def test_three_epochs_see_each_picture_once_and_train_alike(
    chunk_tokens: str, tiny_checkpoint: Path, tmp_path: Path
):
    chunks = f"stages.0.chunk_tokens={chunk_tokens}"
    with tower_runs() as plain:
        stages.train(recipe(tiny_checkpoint, chunks), output=tmp_path / "plain", cpu=True)
    with tower_runs() as once:
        stages.train(
            recipe(tiny_checkpoint, chunks, "stages.0.tower_cache_mb=1"),
            output=tmp_path / "kept",
            cpu=True,
        )
    assert sum(once) == PICTURES * PATCHES
    assert sum(plain) >= 3 * 12 * PATCHES
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    assert losses(tmp_path / "kept")[-1] < losses(tmp_path / "kept")[0]


@pytest.mark.parametrize("chunk_tokens", [None, 1, 300])
def test_gradients_are_those_of_the_tower_in_every_pass(
    chunk_tokens: int | None, tiny_checkpoint: Path
):
    stage = {"freeze": ["visual"], "gradient_checkpointing": True}
    plain = Step(tiny_checkpoint, stage=stage, dropout=0.4)
    kept = Step(tiny_checkpoint, stage={**stage, "tower_cache_mb": 8}, dropout=0.4)
    for step in (plain, kept):
        freeze_parameters(step.encoder.backbone.model, stage["freeze"])
    kept.encoder.backbone.keep_features(kept.config.tower_cache_mb * 2**20)
    expected = plain.ours(chunk_tokens)
    with tower_runs() as rows:
        assert difference(kept.ours(chunk_tokens), expected) < ROUNDING
        chunks = kept.batch(chunk_tokens).inputs
        pictures: dict[bytes, int] = {}
        for chunk in chunks:
            if chunk["picture_keys"] is not None:
                sizes = chunk["grid_thw"].prod(1).tolist()
                pictures |= zip(chunk["picture_keys"], sizes, strict=True)
        assert sum(rows) == sum(pictures.values())
        again = kept.ours(chunk_tokens)
        assert difference(again, kept.ours(chunk_tokens)) == 0
        assert sum(rows) == sum(pictures.values())


def test_adapters_of_the_language_model_alone_leave_the_tower_frozen(
    tiny_checkpoint: Path, tmp_path: Path
):
    pytest.importorskip("peft")
    adapted = recipe(
        tiny_checkpoint, "stages.0.lora={rank: 2}", "stages.0.tower_cache_mb=1", freeze="[]"
    )
    with tower_runs() as rows:
        stages.train(adapted, output=tmp_path / "run", cpu=True)
    assert sum(rows) == PICTURES * PATCHES


def test_a_run_that_was_stopped_continues_without_what_was_kept(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kept = recipe(tiny_checkpoint, "stages.0.tower_cache_mb=1")
    stages.train(kept, output=tmp_path / "straight", cpu=True)
    with monkeypatch.context() as patch:
        patch.setattr("mmembed.training.trainer.BatchLoader", _Interrupting)
        assert stages.train(kept, output=tmp_path / "run", cpu=True).interrupted
    assert BatchLoader is not _Interrupting
    stages.train(kept, output=tmp_path / "run", cpu=True)
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "straight"), rel=1e-5)


def test_a_tower_that_is_trained_is_refused(tiny_checkpoint: Path, tmp_path: Path):
    with pytest.raises(ValidationError, match=r"nothing is frozen; set freeze: \[visual\]"):
        StageConfig(data=[ROWS], steps=1, tower_cache_mb=1)
    with pytest.raises(ValidationError, match="nothing is frozen"):
        StageConfig(data=[ROWS], steps=1, tower_cache_mb=1, lora={"rank": 2, "vision": True})
    partly = recipe(tiny_checkpoint, "stages.0.tower_cache_mb=1", freeze="[visual.blocks.0]")
    with pytest.raises(ConfigError, match="of its parameters are trained"):
        stages.train(partly, output=tmp_path / "run", cpu=True)
