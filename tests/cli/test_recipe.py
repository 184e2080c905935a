"""`mmembed recipe`: listing, showing, comparing and checking without training."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from mmembed.cli.recipe import recipe
from mmembed.config.compare import list_recipes
from mmembed.config.files import load_recipe, parse_recipe
from mmembed.errors import ConfigError

RUNNER = CliRunner()


def run(*arguments: str):
    return RUNNER.invoke(recipe, arguments, catch_exceptions=False)


def test_list_has_a_line_for_each_recipe():
    lines = run("list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [entry.name for entry in list_recipes()]


def test_what_is_shown_loads_to_the_same_recipe():
    text = run("show", "tiny", "--set", "stages.0.steps=5").stdout
    assert parse_recipe(text) == load_recipe("tiny", overrides=["stages.0.steps=5"])


def test_diff_names_the_key_and_both_values(tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(run("show", "tiny", "--set", "stages.0.steps=5").stdout)
    head, line = run("diff", "tiny", str(other)).stdout.splitlines()
    assert head.split() == ["tiny", str(other)]
    assert line.split() == ["stages.0.steps", str(load_recipe("tiny").stages[0].steps), "5"]
    assert run("diff", "tiny", "tiny").stdout == "no differences\n"


def test_check_says_what_each_stage_does_and_warns_on_standard_error():
    result = run("check", "tiny", "--set", "stages.1.losses.sts={}")
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == ["stage1", "stage2"]
    assert "warning: stage2: losses.sts" in result.stderr
    with pytest.raises(ConfigError, match="stage1: retrieval: objective cosent"):
        run("check", "tiny", "--set", "stages.0.loss.objective=cosent")
