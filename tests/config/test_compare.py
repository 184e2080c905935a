"""Recipes are listed by name and compared setting by setting, after resolution."""

from __future__ import annotations

from mmembed.config.compare import ABSENT, Difference, differences, list_recipes, side_by_side
from mmembed.config.files import load_recipe, parse_recipe

MINIMAL = """
model: {path: some/model}
stages:
  - {data: [{adapter: "package.module:Rows", arguments: {a: 1}}], steps: 3}
"""


def recipe(*overrides: str):
    return parse_recipe(MINIMAL, overrides=overrides)


def test_every_listed_recipe_loads_by_its_name_and_bases_are_not_listed():
    names = [entry.name for entry in list_recipes()]
    assert names == sorted(names)
    assert "tiny" in names and "base" not in names
    for entry in list_recipes():
        assert entry.path.stem == entry.name
        assert entry.summary and not entry.summary.startswith("#")


def test_equal_recipes_do_not_differ():
    assert differences(recipe(), recipe()) == []
    assert differences(recipe(), recipe("stages.0.batch_size=256")) == []  # its default


def test_overridden_keys_and_no_others_are_found():
    changed = recipe("stages.0.loss.focal.gamma=0.5", "seed=3", "stages.0.betas=[0.5, 0.9]")
    assert differences(recipe(), changed) == [
        Difference("seed", 0, 3),
        Difference("stages.0.betas", [0.9, 0.999], [0.5, 0.9]),
        Difference("stages.0.loss.focal.gamma", 0.0, 0.5),
    ]
    assert differences(changed, recipe()) == [
        Difference(each.key, each.right, each.left) for each in differences(recipe(), changed)
    ]


def test_every_key_found_is_an_override_that_removes_the_difference():
    left, right = load_recipe("tiny"), load_recipe("tiny", overrides=["stages.1.steps=7", "seed=1"])
    found = differences(left, right)
    assert [each.key for each in found] == ["seed", "stages.1.steps"]
    overrides = [f"{each.key}={each.right}" for each in found]
    assert load_recipe("tiny", overrides=overrides) == right


def test_missing_key_is_told_from_a_null():
    other = recipe("stages.0.data.0.arguments={b: null}")
    assert differences(recipe(), other) == [
        Difference("stages.0.data.0.arguments.a", 1, ABSENT),
        Difference("stages.0.data.0.arguments.b", ABSENT, None),
    ]


def test_stage_that_only_one_side_has_is_one_difference():
    two = parse_recipe(MINIMAL + '  - {data: [{adapter: "a:B"}], steps: 9}\n')
    (only,) = differences(recipe(), two)
    assert (only.key, only.left) == ("stages.1", ABSENT)
    assert only.right["steps"] == 9


def test_table_has_a_line_for_each_difference_and_cuts_long_values():
    long = "x" * 80
    found = differences(recipe(), recipe("stages.0.betas=[0.5, 0.9]", f"model.path={long}"))
    head, *rows = side_by_side(found, ("left", "right"))
    assert head.split() == ["left", "right"]
    assert rows[0].split() == ["model.path", "some/model", "x" * 45 + "..."]
    assert "[0.9, 0.999]" in rows[1] and "[0.5, 0.9]" in rows[1]
    assert len({row.index(value) for row, value in zip(rows, ("some", "[0.9"), strict=True)}) == 1
