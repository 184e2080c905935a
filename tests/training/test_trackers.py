"""Trackers get every row, with the stage before each name and steps that only rise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker, get_available_trackers

from mmembed.config.recipe import Recipe
from mmembed.errors import ConfigError
from mmembed.training.metrics import read_metrics
from mmembed.training.stages import train
from mmembed.training.trackers import tracker_options

DATA = {
    "adapter": "tests.training.pairs:ColourPairs",
    "arguments": {"pictures": False, "size": 6},
}


class Notebook(GeneralTracker):
    """One of accelerate's own kind that keeps everything."""

    name = "notebook"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, Any]]] = []
        self.settings: dict[str, Any] = {}
        self.has_ended = False

    @property
    def tracker(self) -> Notebook:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.rows.append((step, values))

    def finish(self) -> None:
        self.has_ended = True


def recipe(checkpoint: Path, *names: str, **stage: Any) -> Recipe:
    fields = {"data": [DATA], "steps": 2, "batch_size": 3, **stage}
    stages = [{"name": name, **fields} for name in names]
    return Recipe.model_validate(
        {"name": "small", "model": {"path": str(checkpoint)}, "stages": stages}
    )


def test_a_tracker_mirrors_the_metrics_of_all_stages(tiny_checkpoint: Path, tmp_path: Path):
    notebook = Notebook()
    settings = recipe(tiny_checkpoint, "align", "polish")
    train(settings, output=tmp_path, cpu=True, trackers=[notebook])
    assert [step for step, _ in notebook.rows] == [1, 2, 3, 4]
    assert notebook.settings == {"recipe": "small"}
    assert notebook.has_ended
    written = [
        row
        for name in ("align", "polish")
        for row in read_metrics(tmp_path / name / "metrics.jsonl")
    ]
    for number, ((_, values), row) in enumerate(zip(notebook.rows, written, strict=True)):
        stage = "align" if number < 2 else "polish"
        assert values[f"{stage}/loss"] == row["loss"]
        assert values[f"{stage}/temperature/all"] == row["temperature"]["all"]
        assert values[f"{stage}/task_loss/retrieval"] == row["task_loss"]["retrieval"]
        assert all(name.startswith(f"{stage}/") for name in values)
        assert all(isinstance(value, (int, float)) for value in values.values())


def test_trackers_end_also_after_an_error(tiny_checkpoint: Path, tmp_path: Path):
    notebook = Notebook()
    broken = recipe(tiny_checkpoint, "stage1", freeze=["nothing"])
    with pytest.raises(ConfigError, match="no parameter starts with 'nothing'"):
        train(broken, output=tmp_path, cpu=True, trackers=[notebook])
    assert notebook.has_ended


def test_an_unknown_tracker_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="'mlflow' is unknown; trackers are tensorboard, wandb"):
        tracker_options(["mlflow"], tmp_path)


def test_a_tracker_that_is_not_installed_is_refused_before_training(
    tiny_checkpoint: Path, tmp_path: Path
):
    missing = {"tensorboard", "wandb", "trackio"} - {
        each.value for each in get_available_trackers()
    }
    for name in missing:
        with pytest.raises(ConfigError, match=f"not installed.*pip install {name}"):
            train(
                recipe(tiny_checkpoint, "stage1"),
                output=tmp_path / "run",
                cpu=True,
                trackers=[name],
            )
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_tensorboard_writes_below_the_run_folder(tiny_checkpoint: Path, tmp_path: Path):
    pytest.importorskip("tensorboard")
    train(recipe(tiny_checkpoint, "a"), output=tmp_path, cpu=True, trackers=["tensorboard"])
    assert list((tmp_path / "trackers").rglob("events.out.tfevents.*"))
