"""A stage trains on negatives that its model has mined, and mines them once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmembed.config.files import parse_recipe
from mmembed.config.recipe import Recipe
from mmembed.data.row_files import RowFile
from mmembed.errors import ConfigError
from mmembed.training import mined, stages
from mmembed.training.planned import planned_runs
from tests.training.test_training import assert_same_weights, losses, train

ADAPTER = "tests.training.pairs:ColourPairs"
MINING = "{num_negatives: 2, ranks: [1, 3]}"


def recipe(checkpoint: Path, *overrides: str) -> Recipe:
    stage = "temperature: {init: 0.05}, loss: {max_hard_negatives: 2, hard_negatives: own}"
    return parse_recipe(
        f"""
model: {{path: {checkpoint}, image_tokens: {{min: 1, max: 4}}}}
defaults:
  batch_size: 4
  learning_rate: 3e-3
  steps: 3
  data: [{{adapter: "{ADAPTER}", arguments: {{pictures: false}}, name: colours}}]
stages:
  - {{{stage}, mining: {MINING}}}
  - {{{stage}, mining: {MINING}}}
""",
        overrides=overrides,
    )


def rows_of(folder: Path) -> list:
    rows = RowFile(folder / "mined" / "colours.jsonl")
    return [rows[index] for index in range(len(rows))]


def test_each_stage_mines_with_the_model_that_enters_it(tiny_checkpoint, tmp_path):
    train(recipe(tiny_checkpoint), tmp_path / "run")
    records = [
        json.loads((tmp_path / "run" / name / "mined" / "mining.json").read_text())
        for name in ("stage1", "stage2")
    ]
    assert records[0]["teacher"]["space"] != records[1]["teacher"]["space"]
    assert records[1]["teacher"]["name"] == str(tmp_path / "run" / "stage1" / "model")
    for name in ("stage1", "stage2"):
        for row in rows_of(tmp_path / "run" / name):
            assert len(row.hard_negatives) == 2
            assert not set(row.hard_negatives) & {*row.positives, row.query}


def test_a_run_with_mined_negatives_continues_as_if_it_had_not_stopped(
    tiny_checkpoint, tmp_path, monkeypatch
):
    asked = recipe(tiny_checkpoint, "defaults.save_every=1")
    train(asked, tmp_path / "straight")

    train(asked, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "model")
    for folder in sorted((tmp_path / "cut" / "stage2").glob("step-*"))[1:]:
        shutil.rmtree(folder)

    def mined_again(*args, **kwargs):
        raise AssertionError("what is there is mined again")

    monkeypatch.setattr(mined, "mine", mined_again)
    train(asked, tmp_path / "cut")
    assert_same_weights(tmp_path / "straight" / "model", tmp_path / "cut" / "model")
    assert losses(tmp_path / "straight" / "stage2") == losses(tmp_path / "cut" / "stage2")


def test_mined_rows_keep_what_the_recipe_says_of_their_data(tiny_checkpoint, tmp_path, monkeypatch):
    given = []
    original = stages.train_stage
    monkeypatch.setattr(
        stages,
        "train_stage",
        lambda stage, *a, **k: given.append(stage) or original(stage, *a, **k),
    )
    entry = (
        f"defaults.data.0={{adapter: '{ADAPTER}', arguments: {{pictures: false}}, name: colours, "
        "cap: 5, weight: 2.0, query_instruction: [Find it., Look for it.], temperature_group: warm}"
    )
    train(recipe(tiny_checkpoint, entry), tmp_path / "run")
    (data,) = given[0].data
    assert (data.name, data.weight, data.temperature_group) == ("colours", 2.0, "warm")
    assert data.query_instruction == ("Find it.", "Look for it.")
    rows = rows_of(tmp_path / "run" / "stage1")
    assert len(rows) == 5, "rows that the cap leaves out are not mined"
    assert all(row.query.instruction is None for row in rows), "phrasings are drawn at training"


def test_rows_that_were_mined_for_other_settings_are_not_trained_on(
    tiny_checkpoint, tmp_path, monkeypatch
):
    def cut(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stages, "train_stage", cut)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(tiny_checkpoint), tmp_path / "run")
    assert all(len(row.hard_negatives) == 2 for row in rows_of(tmp_path / "run" / "stage1"))
    train(recipe(tiny_checkpoint, "stages.0.mining.num_negatives=1"), tmp_path / "run")
    assert all(len(row.hard_negatives) == 1 for row in rows_of(tmp_path / "run" / "stage1"))


def test_graded_pairs_are_not_mined_and_keep_their_grades(tiny_checkpoint, tmp_path, monkeypatch):
    given = []
    original = stages.train_stage
    monkeypatch.setattr(
        stages,
        "train_stage",
        lambda stage, *a, **k: given.append(stage) or original(stage, *a, **k),
    )
    graded = (
        f"defaults.data=[{{adapter: '{ADAPTER}', arguments: {{pictures: false}}, name: colours}}, "
        f"{{adapter: '{ADAPTER}', name: graded, task: sts, "
        "arguments: {pictures: false, rich: true, task: sts}}]"
    )
    asked = recipe(tiny_checkpoint, graded, "stages.0.losses={sts: {objective: cosent}}")
    train(asked.model_copy(update={"stages": asked.stages[:1]}), tmp_path / "run")
    assert [entry.adapter == ADAPTER for entry in given[0].data] == [False, True]
    mined_rows = sorted(path.name for path in (tmp_path / "run/stage1/mined").glob("*.jsonl"))
    assert mined_rows == ["colours.jsonl"]


def test_soup_members_mine_for_themselves_with_vectors_of_one_store(tiny_checkpoint, tmp_path):
    asked = recipe(
        tiny_checkpoint,
        "stages.0.mining.sampling=random",
        "stages.0.mining.ranks=[1, 5]",
        "soup={method: linear, members: [{seed: 1}, {seed: 2}]}",
    )
    asked = asked.model_copy(update={"stages": asked.stages[:1]})
    train(asked, tmp_path / "run")
    first, second = (rows_of(tmp_path / "run" / f"stage1-member{n}") for n in (1, 2))
    assert [row.query for row in first] == [row.query for row in second]
    assert [row.hard_negatives for row in first] != [row.hard_negatives for row in second]
    spaces = [path for path in (tmp_path / "run/mining-vectors").iterdir() if path.is_dir()]
    assert len(spaces) == 1 and not list((tmp_path / "run").glob("*/mined/vectors"))


def test_a_plan_counts_the_negatives_that_will_be_mined(tiny_checkpoint):
    asked = recipe(tiny_checkpoint, "stages.0.mining.scores=teacher")
    planned = planned_runs(asked, [("stage1", asked.stages[0])])
    rows = [planned.mixture.row(number) for number in range(len(planned.mixture))]
    assert all(len(row.example.hard_negatives) == 2 for row in rows)
    assert all(len(row.example.scores) == 3 for row in rows)


def test_without_mining_a_loss_over_hard_negatives_is_still_refused(tiny_checkpoint, tmp_path):
    bare = recipe(tiny_checkpoint, "stages.0.mining=null")
    with pytest.raises(ConfigError, match="bring none"):
        train(bare, tmp_path / "run")
