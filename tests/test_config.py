"""Strict YAML, overrides, one base, and messages that tell the user what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmembed.config.files import (
    dump_recipe,
    find_config,
    load_recipe,
    parse_recipe,
    read_yaml,
)
from mmembed.config.recipe import Recipe
from mmembed.errors import ConfigError

MINIMAL = """
model: {path: some/model}
stages:
  - {data: [{adapter: "package.module:Rows"}], steps: 3}
"""


def test_minimal_recipe_has_every_knob_off():
    stage = parse_recipe(MINIMAL).stages[0]
    assert stage.loss.hardness.alpha == 0
    assert stage.loss.document_mask.threshold is None
    assert not stage.temperature.learnable
    assert not stage.loss.symmetric
    assert parse_recipe(MINIMAL).soup.method is None


@pytest.mark.parametrize(
    ("key", "guess"),
    [
        ("modle: 1", "unknown key 'modle'; did you mean 'model'?"),
        ("model: {path: x, poling: mean}", "unknown key 'model.poling'; did you mean 'pooling'?"),
        (
            'stages: [{data: [{adapter: "a:B", wieght: 1}], steps: 1}]',
            "unknown key 'stages.0.data.0.wieght'; did you mean 'weight'?",
        ),
        (
            'stages: [{data: [{adapter: "a:B"}], steps: 1, loss: {hardness: {alhpa: 1}}}]',
            "unknown key 'stages.0.loss.hardness.alhpa'; did you mean 'alpha'?",
        ),
    ],
)
def test_unknown_key_is_answered_with_the_nearest_one(key: str, guess: str):
    kept = "".join(
        line + "\n" for line in MINIMAL.splitlines() if not line.startswith(key.split(":")[0])
    )
    if key.startswith("stages"):
        kept = "model: {path: x}\n"
    with pytest.raises(ConfigError) as error:
        parse_recipe(kept + key + "\n")
    assert guess in str(error.value)


def test_key_given_twice_is_refused_with_its_line():
    with pytest.raises(ConfigError, match=r"'path' is given twice[\s\S]*line 3"):
        parse_recipe("model:\n  path: a\n  path: b\n")


def test_yaml_cannot_build_python_objects():
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_recipe("model: !!python/object/apply:os.getcwd []")


def test_numbers_and_words_mean_what_they_look_like():
    assert read_yaml("{a: 1e-4, b: no, c: true, d: 1.5, e: 2E3}", source="x") == {
        "a": 1e-4,
        "b": "no",
        "c": True,
        "d": 1.5,
        "e": 2000.0,
    }


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("stages.0.steps=10", lambda r: r.stages[0].steps == 10),
        ("stages.0.loss.hardness.alpha=9", lambda r: r.stages[0].loss.hardness.alpha == 9),
        ("stages.0.data.0.arguments.split=dev", lambda r: r.stages[0].data[0].arguments),
        ("defaults.batch_size=7", lambda r: r.stages[0].batch_size == 7),
        ("soup={method: linear, members: [{seed: 1}]}", lambda r: r.soup.method == "linear"),
        ("seed=4", lambda r: r.seed == 4),
    ],
)
def test_override_reaches_its_key(override: str, read):
    assert read(parse_recipe(MINIMAL, overrides=[override]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.1.steps=1", r"stages.1 does not exist; the list stages has entries 0..0"),
        ("stages.0.stepz=1", "did you mean 'steps'"),
        ("seed", "dotted.key=value"),
        ("model.path.x=1", "has no keys"),
        ("stages.0.batch_size=0", "stages.0.batch_size: .*found 0"),
        ("stages.0.epochs=1", "steps or epochs, exactly one"),
    ],
)
def test_wrong_override_says_what_is_allowed(override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        parse_recipe(MINIMAL, overrides=[override])


def test_base_is_merged_key_by_key_and_lists_are_replaced(tmp_path: Path):
    (tmp_path / "parent.yaml").write_text(
        MINIMAL + "seed: 5\ndefaults: {batch_size: 8, loss: {symmetric: true}}\n"
    )
    (tmp_path / "child.yaml").write_text(
        "base: parent\nmodel: {pooling: mean}\n"
        'stages: [{data: [{adapter: "a:B"}], epochs: 1, loss: {in_batch: true}}]\n'
    )
    recipe = load_recipe(tmp_path / "child.yaml")
    assert recipe.seed == 5
    assert recipe.model.path == "some/model"
    assert recipe.model.pooling == "mean"
    assert recipe.stages[0].batch_size == 8
    assert recipe.stages[0].loss.symmetric
    assert recipe.stages[0].data[0].adapter == "a:B"


def test_base_of_a_base_is_refused(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("base: b\n")
    (tmp_path / "b.yaml").write_text("base: c\n")
    with pytest.raises(ConfigError, match="one level"):
        load_recipe(tmp_path / "a.yaml")


def test_length_of_a_stage_replaces_the_default_length():
    recipe = parse_recipe(MINIMAL + "defaults: {epochs: 2}\n")
    assert (recipe.stages[0].steps, recipe.stages[0].epochs) == (3, None)


def test_dump_reloads_to_the_same_recipe():
    recipe = parse_recipe(
        MINIMAL + "soup: {method: linear, members: [{seed: 1, learning_rate: 1e-3}]}\n"
    )
    assert parse_recipe(dump_recipe(recipe)) == recipe


def test_soup_of_checkpoints_or_stages_runs_the_last_stage_once():
    for soup, size in (
        ("{method: slerp, checkpoints: 3}", 3),
        ("{method: linear, stages: [stage1], weights: [2]}", 1),
    ):
        recipe = parse_recipe(
            MINIMAL + f"soup: {soup}\n", overrides=["stages.0.save_every=1", "seed=3"]
        )
        assert recipe.soup.size == size
        assert recipe.member_stages() == recipe.stages


def test_batch_size_and_loss_of_a_task_fall_back_to_those_of_the_stage():
    stage = parse_recipe(
        MINIMAL,
        overrides=[
            "stages.0.batch_sizes.sts=768",
            "stages.0.loss.query_query=true",
            "stages.0.losses.sts.objective=cosent",
        ],
    ).stages[0]
    assert (stage.batch_size_of("sts"), stage.batch_size_of("retrieval")) == (768, 256)
    assert stage.loss_of("retrieval").objective == "infonce"
    assert stage.loss_of("sts").objective == "cosent"
    assert stage.loss_of("sts").query_query  # merged over the stage's loss


def test_temperature_bounds_must_be_in_order():
    with pytest.raises(ConfigError, match=r"min 0\.3 is above max 0\.2"):
        parse_recipe(MINIMAL, overrides=["stages.0.temperature.min=0.3"])


def test_soup_members_are_variations_of_the_last_stage():
    recipe = parse_recipe(
        MINIMAL + "soup: {method: linear, members: [{seed: 1}, {seed: 2, epochs: 1}]}\n"
    )
    first, second = recipe.member_stages()
    assert (first.seed, first.steps) == (1, 3)
    assert (second.seed, second.steps, second.epochs) == (2, None, 1)


@pytest.mark.parametrize(
    ("soup", "message"),
    [
        ("{method: linear}", "needs members"),
        ("{members: [{seed: 1}]}", "members without a method"),
        ("{method: linear, members: [{sed: 1}]}", "soup.members.0: unknown key 'sed'.*'seed'"),
        ("{method: linear, members: [{seed: 1}], weights: [1, 2]}", "2 weights for 1 members"),
        ("{method: linear, members: [{seed: 1}], weights: [0]}", "not all 0"),
        ("{method: cubic, members: [{seed: 1}]}", "soup.method"),
        ("{method: slerp, members: [{seed: 1}], checkpoints: 2}", "members and checkpoints"),
        ("{method: slerp, checkpoints: 2, weights: [1, 1]}", "weights belong to method linear"),
        ("{method: linear, stages: [stage1], weights: [1, 1]}", "2 weights for 1 stages"),
        ("{method: slerp, checkpoints: 2}", "set save_every"),
        ("{method: slerp, stages: [stage1, stage9]}", "soup.stages is .*give different ones of"),
        ("{method: linear, stages: [stage1, stage1]}", "give different ones of stage1"),
        ("{checkpoints: 2}", "checkpoints without a method"),
        ("{method: cocktail, members: [{seed: 1}]}", "examples belong to method cocktail"),
        ("{method: linear, examples: a, members: [{seed: 1}]}", "examples belong"),
    ],
)
def test_impossible_soup_is_refused(soup: str, message: str):
    with pytest.raises(ConfigError, match=message):
        parse_recipe(MINIMAL + f"soup: {soup}\n")


def test_the_distance_of_checkpoints_is_part_of_a_recipe_that_averages_them():
    def fingerprint(save_every: int, checkpoints: int | None) -> str:
        fields = load_recipe("tiny").model_dump(mode="json")
        fields["stages"][-1]["save_every"] = save_every
        fields["soup"] = {"method": checkpoints and "linear", "checkpoints": checkpoints}
        return Recipe.model_validate(fields).fingerprint(2)

    assert fingerprint(5, None) == fingerprint(6, None)
    assert fingerprint(5, 2) != fingerprint(6, 2)


def test_renaming_a_recipe_or_logging_more_often_keeps_its_fingerprint():
    recipe = parse_recipe(MINIMAL)
    same = parse_recipe(MINIMAL, overrides=["name=other", "stages.0.log_every=5"])
    other = parse_recipe(MINIMAL, overrides=["stages.0.learning_rate=0.5"])
    assert recipe.fingerprint(1) == same.fingerprint(1)
    assert recipe.fingerprint(1) != other.fingerprint(1)


def test_missing_recipe_lists_the_recipes_there_are():
    with pytest.raises(ConfigError, match=r"no recipe file 'tinny'; did you mean 'tiny'\?.*base"):
        find_config("tinny")


def test_stage_names_must_differ():
    stage = '{name: same, data: [{adapter: "a:B"}], steps: 1}'
    with pytest.raises(ConfigError, match="stage names must differ"):
        parse_recipe(f"model: {{path: x}}\nstages: [{stage}, {stage}]\n")


def test_recipe_is_immutable():
    with pytest.raises(ValueError, match="frozen"):
        Recipe.model_validate(parse_recipe(MINIMAL).model_dump()).seed = 3  # type: ignore[misc]
