"""Every YAML of the repository is a recipe that loads, survives a dump, builds and trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmembed.config.files import config_folders, dump_recipe, load_recipe, parse_recipe, read_yaml
from mmembed.data.adapter import resolve_adapter
from mmembed.training.metrics import read_metrics
from mmembed.training.stages import train

FILES = sorted(path for path in config_folders()[0].glob("*.yaml"))
RECIPES = [path for path in FILES if "stages" in read_yaml(path.read_text(), source=path.name)]
ROWS = '[{adapter: "tests.training.pairs:ColourPairs", arguments: {hard_negatives: true}}]'


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(path: Path, checkpoint: Path, *more: str) -> list[str]:
    """Two steps of every stage on a two-layer backbone and six colours."""
    overrides = [
        f"model.path={checkpoint}",
        *(f"model.{kind}_tokens={{min: 1, max: 4}}" for kind in ("image", "frame", "page")),
    ]
    recipe = load_recipe(path)
    for number in range(len(recipe.stages)):
        at = f"stages.{number}"
        overrides += [f"{at}.data={ROWS}", f"{at}.steps=2", f"{at}.batch_size=6"]
        overrides += [f"{at}.epochs=null"] if recipe.stages[number].epochs else []
    for number in range(len(recipe.soup.members)):
        overrides += [f"soup.members.{number}={{seed: {number}}}"]
    return [*overrides, *more]


def test_there_are_recipes_to_test():
    assert {path.stem for path in FILES} >= {"base", "rzenembed", "tiny"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_survives_dump_and_reload(path: Path):
    recipe = load_recipe(path)
    assert parse_recipe(dump_recipe(recipe)) == recipe
    assert recipe == load_recipe(path.stem)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_adapters_of_a_recipe_exist_and_take_their_arguments(path: Path):
    for stage in load_recipe(path).stages:
        for entry in stage.data:
            assert len(resolve_adapter(entry.adapter, entry.arguments)) > 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_builds_and_takes_two_steps(path: Path, tiny_checkpoint: Path, tmp_path: Path):
    recipe = load_recipe(path, overrides=small(path, tiny_checkpoint))
    result = train(recipe, output=tmp_path / "run", cpu=True)
    assert (result.model / "model.safetensors").is_file()
    assert len(result.stages) == len(recipe.stages) - 1
    assert len(result.members) == len(recipe.soup.members)


def test_renaming_a_recipe_changes_no_loss_value(tiny_checkpoint: Path, tmp_path: Path):
    path = next(path for path in RECIPES if path.stem == "tiny")
    rows = []
    for name in ("tiny", "another"):
        overrides = small(path, tiny_checkpoint, f"name={name}", "soup={}")
        train(load_recipe(path, overrides=overrides), output=tmp_path / name, cpu=True)
        logs = [read_metrics(tmp_path / name / stage / "metrics.jsonl") for stage in STAGES]
        rows.append([float(row["loss"]).hex() for log in logs for row in log])
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4


STAGES = ("stage1", "stage2")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_strict_yaml(path: Path):
    assert isinstance(read_yaml(path.read_text(), source=path.name), dict)
