"""`mmembed train` refuses what cannot work in one line, before the first step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from mmembed.cli import app

ROWS = "{adapter: 'data_adapters.emoji:EmojiNames'}"  # no hard negatives, labels or scores


def train(recipe: str, model: Path, output: Path, *changes: str) -> Any:
    options = [f"model.path={model}", "stages.0.steps=1", "stages.0.save_every=null", *changes]
    arguments = ["train", recipe, "--output", str(output)]
    for option in options:
        arguments += ["--set", option]
    return CliRunner().invoke(app, arguments)


def assert_refused(done: Any, output: Path, message: str) -> None:
    assert done.exit_code == 2, (done.stderr, done.exception)
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert message in line
    assert "Traceback" not in done.stderr
    assert not list(output.rglob("metrics.jsonl")) and not (output / "model").exists()


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("tiny_kalm", ["stages.0.temperature.init=0"], "temperature.init: Input should be greater"),
        ("tiny_kalm", ["stages.1.temperature.init=-0.1"], "stages.1.temperature.init"),
        (
            "tiny_kalm",
            ["stages.0.temperature={learnable: true, init: 0.5}"],
            "init 0.5 is outside [0.01, 0.2]",
        ),
        ("tiny_kalm", ["stages.0.loss.in_batch=false"], "no negatives: set in_batch"),
        (
            "tiny_kalm",
            ["stages.0.loss={in_batch: false, hard_negatives: own}"],
            "hard_negatives as the only negatives, but rows of emoji/names bring none",
        ),
        (
            "tiny_kalm",
            ["stages.0.loss.hard_negatives=own"],
            "hard_negatives own needs hard_negatives, but rows of emoji/names bring none",
        ),
        (
            "tiny_kalm",
            ["stages.0.loss.mixed_negatives.list=true"],
            "mixed_negatives.list needs hard_negatives, but rows of emoji/names bring none",
        ),
        ("tiny_kalm", ["stages.0.loss.same_class=true"], "emoji/names have no label"),
        ("tiny_kalm", ["stages.0.loss.objective=cosent"], "emoji/names have no scores"),
        ("tiny_kalm", ["stages.0.loss.matryoshka.dims=[65]"], "embeddings have 64 dimensions"),
        (
            "tiny_qwen3_reranker",
            [f"stages.0.data=[{ROWS}]", "soup={}"],
            "yes_no answers yes to positives and no to hard_negatives",
        ),
    ],
)
def test_what_the_data_or_the_model_cannot_give(
    recipe: str, changes: list[str], message: str, tiny_checkpoint: Path, tmp_path: Path
):
    done = train(recipe, tiny_checkpoint, tmp_path / "run", *changes)
    assert_refused(done, tmp_path / "run", message)


def test_a_model_with_nan_is_refused_before_any_weight_changes(
    tiny_checkpoint: Path, tmp_path: Path
):
    broken = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    name = next(name for name in tensors if name.endswith("down_proj.weight"))
    tensors[name][0, 0] = torch.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    done = train(
        "tiny_kalm",
        broken,
        tmp_path / "run",
        "stages.0.batch_size=4",
        "stages.1.loss.matryoshka={}",
    )
    assert done.exit_code == 3
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert line.startswith("error: step 1 (emoji/names") and "no weight was changed" in line
    assert not (tmp_path / "run" / "pretraining" / "model").exists()


def test_data_of_a_later_stage_are_checked_before_the_first_one_runs(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    later = ["stages.1.loss.matryoshka={}", "stages.1.loss.objective=cosent"]
    done = train("tiny_kalm", tiny_checkpoint, output, *later)
    assert_refused(done, output, "cosent")
    assert not output.exists()


def test_a_mistyped_model_path_can_be_corrected_in_the_same_folder(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    mistyped = train("tiny_kalm", tmp_path / "absent", output)
    assert mistyped.exit_code == 2
    assert "model.path" in mistyped.stderr and "mmembed quickstart" in mistyped.stderr
    short = ["stages.1.loss.matryoshka={}", "stages.1.steps=1", "soup={}", "stages.0.batch_size=4"]
    done = train("tiny_kalm", tiny_checkpoint, output, *short, "stages.1.batch_size=4")
    assert done.exit_code == 0, done.stderr
