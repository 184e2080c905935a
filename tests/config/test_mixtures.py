"""Mixture files become plain entries of the recipe that names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmembed.config.files import dump_recipe, load_mixture, load_recipe, parse_recipe
from mmembed.config.recipe import Recipe
from mmembed.config.stage import DataConfig, StageConfig
from mmembed.errors import ConfigError

ROWS = "package.module:Rows"
STAGE = "model: {path: some/model}\nstages: [{steps: 3, data: %s}]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "two.yaml").write_text(
        "description: Two sets\n"
        f"defaults: {{adapter: '{ROWS}', arguments: {{root: data}}, weight: 0.5}}\n"
        "data:\n"
        "  - {arguments: {name: a}, cap: 50, query_instruction: [x, y]}\n"
        "  - {arguments: {name: b, root: other}, weight: 3}\n"
    )
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "outer.yaml").write_text(
        "defaults: {group: g}\n"
        "data:\n"
        "  - {mixture: ../two, weight: 2, cap: 80, arguments: {extra: 1}}\n"
        f"  - {{adapter: '{ROWS}'}}\n"
    )
    return tmp_path


def data_of(text: str, beside: Path, *overrides: str) -> tuple[DataConfig, ...]:
    return parse_recipe(STAGE % text, beside=beside, overrides=overrides).stages[0].data


def entry(**fields: Any) -> DataConfig:
    return DataConfig(adapter=ROWS, **fields)


TWO = (
    entry(
        arguments={"root": "data", "name": "a"}, weight=0.5, cap=50, query_instruction=["x", "y"]
    ),
    entry(arguments={"root": "other", "name": "b"}, weight=3),
)


def test_a_name_stands_for_the_entries_of_its_file(folder: Path) -> None:
    assert data_of("two", folder) == TWO
    assert data_of("two.yaml", folder) == TWO
    assert data_of("[{mixture: two}]", folder) == TWO
    assert load_mixture(folder / "two.yaml") == TWO


def test_mixtures_take_in_others_beside_them(folder: Path) -> None:
    first, second = TWO
    expected = (
        first.model_copy(
            update={"weight": 1.0, "group": "g", "arguments": {**first.arguments, "extra": 1}}
        ),
        second.model_copy(
            update={
                "weight": 6,
                "cap": 80,
                "group": "g",
                "arguments": {**second.arguments, "extra": 1},
            }
        ),
        entry(group="g"),
    )
    assert data_of("more/outer", folder) == expected
    assert data_of(f"[{{adapter: '{ROWS}'}}, {{mixture: more/outer}}]", folder)[1:] == expected


def test_what_an_entry_says_besides_wins_and_weight_and_share_multiply(folder: Path) -> None:
    text = "[{mixture: two, share: 3, weight: 0.1, task: sts, query_instruction: z}]"
    stage = f"model: {{path: m}}\nstages: [{{steps: 3, sampling: {{exponent: 1}}, data: {text}}}]"
    a, b = parse_recipe(stage, beside=folder).stages[0].data
    assert (a.weight, b.weight) == pytest.approx((0.05, 0.3))
    assert (a.share, a.task, a.query_instruction, b.query_instruction) == (3, "sts", "z", "z")
    (inner,) = [each for each in data_of("[{mixture: two, cap: 10}]", folder) if each.weight == 0.5]
    assert inner.cap == 10


def test_evaluation_defaults_soup_members_and_overrides_may_name_mixtures(folder: Path) -> None:
    text = (
        "model: {path: m}\ndefaults: {steps: 3, evaluation: two}\n"
        f"stages: [{{data: [{{adapter: '{ROWS}'}}]}}]\n"
        "soup: {method: linear, members: [{seed: 1}, {data: two}]}\n"
    )
    recipe = parse_recipe(text, beside=folder)
    assert recipe.stages[0].evaluation == TWO
    assert [stage.data for stage in recipe.member_stages()] == [(entry(),), TWO]
    assert data_of(f"[{{adapter: '{ROWS}'}}]", folder, "stages.0.data=two") == TWO
    capped = data_of("two", folder, "stages.0.data.1.cap=7")
    assert [each.cap for each in capped] == [50, 7]


def test_a_base_names_mixtures_beside_itself(folder: Path) -> None:
    (folder / "more" / "base.yaml").write_text(STAGE % "../two")
    (folder / "recipe.yaml").write_text("base: more/base\nseed: 3\n")
    assert load_recipe(folder / "recipe.yaml").stages[0].data == TWO


def test_the_dump_holds_the_entries_and_needs_no_mixture(folder: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(STAGE % "more/outer", beside=folder)
    text = dump_recipe(recipe)
    assert "mixture" not in text and "name: b" in text
    assert parse_recipe(text) == recipe


def test_a_mixture_that_takes_in_itself_is_refused(folder: Path) -> None:
    (folder / "a.yaml").write_text("data: [{mixture: b}]")
    (folder / "b.yaml").write_text("data: a")
    with pytest.raises(ConfigError, match=r"takes in itself: a\.yaml > b\.yaml > a\.yaml"):
        data_of("a", folder)
    (folder / "twice.yaml").write_text("data: [{mixture: two}, {mixture: two}]")
    assert data_of("twice", folder) == (*TWO, *TWO)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds list; expected keys"),
        ("description: x", "is no mixture: expected a list under data"),
        ("data: {a: 1}", "is no mixture: expected a list under data"),
        ("{data: [], defualts: {}}", "unknown key 'defualts'; did you mean 'defaults'"),
        ("data: [3]", r"bad\.yaml: data\.0 is 3; expected keys of an entry"),
        ("{data: [{adapter: 'a:B'}], defaults: 3}", "defaults holds 3"),
        ("data: no_such", "no mixture file 'no_such'"),
        ("data: [{adapter: 'a:B', wieght: 1}]", "wieght'; did you mean 'weight'"),
    ],
)
def test_what_is_wrong_with_a_mixture_is_said(folder: Path, content: str, message: str) -> None:
    (folder / "bad.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        data_of("bad", folder)
    with pytest.raises(ConfigError, match=message):
        load_mixture(folder / "bad.yaml")


def test_a_multiplier_that_is_no_number_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"stages\.0\.data\.0\.weight.*found 'much'"):
        data_of("[{mixture: two, weight: much}]", folder)


def stage(**fields: Any) -> Recipe:
    return Recipe.model_validate({"model": {"path": "m"}, "stages": [{"steps": 1, **fields}]})


def test_losses_go_by_task_or_by_a_name_that_data_have() -> None:
    data = [{"adapter": ROWS, "loss": "graded"}, {"adapter": ROWS}]
    losses = {"graded": {"objective": "cosent"}, "qa": {"in_batch": False}}
    built = StageConfig.model_validate({"steps": 1, "data": data, "losses": losses})
    assert built.loss_of("graded").objective == "cosent"
    assert not built.loss_of("qa").in_batch
    assert built.loss_of("retrieval") == built.loss


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"data": [{"adapter": ROWS, "loss": "grades"}], "losses": {"graded": {}}},
            "data ask for loss 'grades'; did you mean 'graded'",
        ),
        (
            {"data": [{"adapter": ROWS}], "losses": {"retrival": {}}},
            "losses.retrival is no task; did you mean 'retrieval'",
        ),
        ({"data": [{"adapter": ROWS, "loss": "a.b"}]}, "should match pattern"),
        ({"data": [{"adapter": ROWS, "query_instruction": []}]}, "at least 1 item"),
        ({"data": [{"adapter": ROWS, "share": 2}]}, "share of data needs sampling.exponent"),
    ],
)
def test_settings_of_data_that_cannot_be_meant_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stage(**fields)
