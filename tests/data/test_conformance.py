"""Data that cannot feed a loss are refused before the first step, and what is odd is said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mmembed.config.files import parse_recipe
from mmembed.config.recipe import Recipe
from mmembed.data.conformance import check_recipe, check_stage, width_of
from mmembed.data.mixture import build_mixture
from mmembed.errors import ConfigError
from mmembed.types import ContrastiveExample, MultimodalInput, Task


class Rows:
    """Rows with as much beside query and positive as is asked for."""

    revision = "1"
    license = "CC0-1.0"

    def __init__(
        self,
        name: str = "rows",
        *,
        task: Task = "retrieval",
        size: int = 8,
        negatives: int = 0,
        label: bool = False,
        negative_labels: bool = False,
        scores: bool = False,
    ) -> None:
        self.name, self.task, self.size = name, task, size
        self.negatives, self.label, self.scores = negatives, label, scores
        self.negative_labels = negative_labels

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> ContrastiveExample:
        return ContrastiveExample(
            query=MultimodalInput.of(f"query {index}"),
            positives=(MultimodalInput.of(f"document {index}"),),
            hard_negatives=tuple(
                MultimodalInput.of(f"negative {index} {n}") for n in range(self.negatives)
            ),
            task=self.task,
            label="a" if self.label else None,
            negative_labels=("b",) * self.negatives if self.negative_labels else (),
            scores=(1.0,) * (1 + self.negatives) if self.scores else None,
        )


def recipe(stage: str, *rows: str, model: str = "path: some/model") -> Recipe:
    data = ", ".join(
        f"{{adapter: 'tests.data.test_conformance:Rows', arguments: {{{arguments}}}}}"
        for arguments in rows or ("",)
    )
    return parse_recipe(
        f"model: {{{model}}}\ndefaults: {{steps: 3, batch_size: 4}}\n"
        f"stages: [{{data: [{data}]{', ' * bool(stage)}{stage}}}]\n"
    )


def warnings(stage: str, *rows: str) -> tuple[str, ...]:
    (report,) = check_recipe(recipe(stage, *rows)).stages
    return report.warnings


WITH, WITHOUT = "name: with, negatives: 2", "name: without"


def test_plain_recipe_passes_without_a_warning():
    assert warnings("") == ()
    assert warnings("", WITH, WITHOUT) == ()


@pytest.mark.parametrize(
    ("stage", "rows", "message"),
    [
        ("loss: {in_batch: false}", (WITH, WITHOUT), "rows of without bring none"),
        ("loss: {in_batch: false, max_hard_negatives: 0}", (WITH,), "no negatives"),
        ("loss: {mixed_negatives: {list: true}}", (WITHOUT,), "mixed_negatives.list needs hard_"),
        ("loss: {mixed_negatives: {pair: [2, 2]}}", (WITHOUT,), "mixed_negatives.pair needs"),
        ("loss: {hardness: {alpha: 9, scope: hard}}", (WITHOUT,), "hardness.scope hard needs"),
        ("loss: {objective: cosent}", (WITH,), "cosent .* rows of with have no scores"),
        ("loss: {objective: yes_no}", (WITH, WITHOUT), "yes_no .* rows of without bring none"),
        (
            "loss: {hard_negatives: own}",
            (WITHOUT,),
            "hard_negatives own .*without bring none",
        ),
        ("loss: {same_class: true}", (WITH,), "same_class .* rows of with have no label"),
        (
            "loss: {distillation: {weight: 1}}",
            ("name: scored, scores: true",),
            "own hard_negatives, but rows of scored bring none",
        ),
        ("loss: {distillation: {weight: 1}}", (WITH,), "have no scores of a teacher"),
        ("batch_size: 1", (WITHOUT,), "batches of 1 row.*without.*raise batch_size"),
        ("batch_size: 1, loss: {hard_negatives: none}", (WITH,), "a batch of 1 row"),
        ("batch_sizes: {retrieval: 1}", (WITHOUT,), "batches of 1 row"),
        (
            "loss: {objective: cosent}, batch_size: 1",
            ("scores: true",),
            "cosent ranks pairs of rows; raise batch_size above 1",
        ),
        (
            "sampling: {exponent: 1, task_shares: {sts: 0.5}}",
            (WITH,),
            "task_shares names sts, but no data has that task",
        ),
    ],
)
def test_loss_that_the_rows_cannot_feed_is_refused(stage: str, rows, message: str):
    with pytest.raises(ConfigError, match=message) as error:
        check_recipe(recipe(stage, *rows))
    assert str(error.value).startswith("stage1: ")


@pytest.mark.parametrize(
    ("stage", "rows"),
    [
        ("loss: {in_batch: false}", (WITH,)),
        ("loss: {mixed_negatives: {pair: [2, 2], list: true}}", (WITH, WITHOUT)),
        ("loss: {objective: cosent}", ("scores: true",)),
        ("loss: {objective: cosent, hard_negatives: own}", ("scores: true",)),
        ("loss: {objective: yes_no}", (WITH,)),
        ("loss: {same_class: true}", ("label: true",)),
        ("loss: {distillation: {weight: 1}}", ("negatives: 1, scores: true",)),
    ],
)
def test_loss_that_the_rows_feed_passes(stage: str, rows):
    assert warnings(stage, *rows) == ()


def test_only_the_loss_of_a_task_is_asked_of_its_rows():
    stage = "losses: {sts: {objective: cosent}}"
    assert warnings(stage, WITHOUT, "name: graded, task: sts, scores: true") == ()
    with pytest.raises(ConfigError, match=r"sts: objective cosent .* rows of plain"):
        check_recipe(recipe(stage, WITHOUT, "name: plain, task: sts"))


@pytest.mark.parametrize(
    ("stage", "rows", "message"),
    [
        ("losses: {sts: {}}", (WITH,), "losses.sts and .* no data has that task.*retrieval"),
        ("batch_sizes: {qa: 8}", (WITH,), "qa and its settings have no effect"),
        ("loss: {max_hard_negatives: 7}", (WITH,), r"rows bring fewer: with \(2\)"),
        ("loss: {max_hard_negatives: 2}", (WITH, WITHOUT), r"rows bring fewer: without \(0\)"),
        ("loss: {max_hard_negatives: 2}", (WITHOUT,), "rows of without bring none"),
        (
            "loss: {mixed_negatives: {pair: [2, 2]}}",
            ("name: one, negatives: 1",),
            "skips rows with one hard negative: one",
        ),
        (
            "loss: {same_class: true}",
            ("name: half, negatives: 1, label: true",),
            "without negative_labels: half",
        ),
        ("batch_sizes: {retrieval: 9}", (WITH,), "with has 8 rows for batches of 9"),
        ("temperature: {per_task: true}", (WITH,), "no effect without temperature.learnable"),
        ("temperature: {init: 0.5}", (WITH,), r"0.5 is outside \[0.01, 0.2\]"),
        ("temperature: {learnable: true, per_task: true}", (WITH,), "learns one temperature"),
    ],
)
def test_what_is_hardly_meant_is_said(stage: str, rows, message: str):
    (warning,) = warnings(stage, *rows)
    assert re.search(message, warning), warning


def test_graded_pairs_of_one_batch_need_one_temperature():
    losses = "loss: {objective: cosent}, temperature: {learnable: true, per_task: true}"
    rows = [
        "{adapter: 'tests.data.test_conformance:Rows', "
        f"arguments: {{name: {name}, scores: true}}, "
        f"temperature_group: {name}, group: {{group}}}}"
        for name in ("near", "far")
    ]
    template = f"model: {{path: x}}\ndefaults: {{steps: 3}}\nstages: [{{data: [{', '.join(rows)}], "
    together = template.replace("{group}", "all")
    with pytest.raises(ConfigError, match="group all learns far, near; give its data one"):
        check_recipe(parse_recipe(f"{together}{losses}}}]\n"))
    check_recipe(parse_recipe(f"{together}loss: {{objective: cosent}}}}]\n"))
    apart = template.replace("{group}", "one", 1).replace("{group}", "two")
    check_recipe(parse_recipe(f"{apart}{losses}}}]\n"))


def test_dimension_above_the_width_of_the_folder_is_refused(tmp_path: Path):
    model = f"path: {tmp_path}"
    stage = "loss: {matryoshka: {dims: [16, 64, 128]}}"
    assert check_recipe(recipe(stage, model=model)).width is None
    for content in ({"hidden_size": 64}, {"text_config": {"hidden_size": 64}}):
        (tmp_path / "config.json").write_text(json.dumps(content))
        assert width_of(recipe("", model=model).model) == 64
        with pytest.raises(ConfigError, match=r"matryoshka.dims has 128, .* have 64 dimensions"):
            check_recipe(recipe(stage, model=model))
    (tmp_path / "config.json").write_text("not json")
    assert check_recipe(recipe(stage, model=model)).width is None


def test_a_built_mixture_can_be_checked_alone():
    stage = recipe("loss: {objective: cosent}").stages[0]
    with pytest.raises(ConfigError, match="cosent"):
        check_stage(stage, build_mixture(stage.data, seed=0))


def test_prompt_adapter_and_soup_members_are_looked_at():
    with pytest.raises(ConfigError, match="nowhere"):
        check_recipe(recipe("", model="path: x, prompt: nowhere"))
    with pytest.raises(ConfigError, match="stage1: adapter 'no_such_module:Rows'"):
        changed = recipe("").model_dump(mode="json")
        changed["stages"][0]["data"][0]["adapter"] = "no_such_module:Rows"
        check_recipe(Recipe.model_validate(changed))
    changed = recipe("").model_dump(mode="json")
    changed["soup"] = {"method": "linear", "members": [{"seed": 1}, {"batch_size": 2}]}
    reports = check_recipe(Recipe.model_validate(changed)).stages
    assert [report.name for report in reports] == ["stage1", "stage1, soup member 2"]
    changed["soup"]["members"][1] = {"loss": {"objective": "cosent"}}
    with pytest.raises(ConfigError, match="stage1, soup member 2: retrieval: objective cosent"):
        check_recipe(Recipe.model_validate(changed))


def test_summary_says_length_batches_rows_and_objectives():
    stage = "losses: {sts: {objective: cosent}}, batch_sizes: {sts: 6}, lora: {rank: 4}"
    (report,) = check_recipe(
        recipe(stage, WITH, "name: graded, task: sts, scores: true, size: 12")
    ).stages
    assert report.summary == (
        "3 steps, batches of 4 or 6, 20 rows in 2 groups; retrieval: infonce; sts: cosent; "
        "LoRA rank 4"
    )
    fields = recipe("loss: {focal: {gamma: 1}, query_query: true}").model_dump(mode="json")
    fields["stages"][0] |= {"steps": None, "epochs": 2}
    (report,) = check_recipe(Recipe.model_validate(fields)).stages
    assert report.summary == (
        "2 epochs of about 2 steps, batches of 4, 8 rows in 1 group; "
        "retrieval: infonce + query_query + focal"
    )


def named(losses: str, *entries: str) -> tuple[str, ...]:
    data = ", ".join(
        f"{{adapter: 'tests.data.test_conformance:Rows', {entry}}}" for entry in entries
    )
    text = (
        "model: {path: some/model}\nstages: "
        f"[{{steps: 3, batch_size: 4, data: [{data}], losses: {losses}}}]\n"
    )
    (report,) = check_recipe(parse_recipe(text)).stages
    return report.warnings


def test_each_loss_is_asked_of_the_data_that_name_it():
    plain, graded = "arguments: {name: plain}", "arguments: {name: graded, scores: true}"
    losses = "{graded: {objective: cosent}}"
    assert named(losses, plain, f"{graded}, loss: graded") == ()
    with pytest.raises(ConfigError, match=r"graded: objective cosent .* rows of plain"):
        named(losses, graded, f"{plain}, loss: graded")


def test_a_group_with_two_losses_or_shares_is_refused():
    entry = "arguments: {name: %s}, group: g"
    with pytest.raises(ConfigError, match=r"group 'g' mixes losses: a is retrieval, b is other"):
        named("{other: {}}", entry % "a", entry % "b" + ", loss: other")
    drawn = "{}, sampling: {exponent: 1}"
    with pytest.raises(ConfigError, match=r"group 'g' mixes shares: a is 1.0, b is 2.0"):
        named(drawn, entry % "a", entry % "b" + ", share: 2")


def test_a_task_that_data_are_given_decides_the_loss():
    losses = "{sts: {objective: cosent}}"
    entry = "arguments: {scores: true}, task: sts"
    assert named(losses, entry) == ()
    with pytest.raises(ConfigError, match="sts: objective cosent"):
        named(losses, "task: sts")


def test_a_reranker_cannot_mine_for_itself_and_graded_pairs_are_not_mined():
    with pytest.raises(ConfigError, match=r"name an embedding model as\s+mining\.teacher"):
        check_recipe(recipe("loss: {objective: yes_no}, mining: {}"))
    check_recipe(recipe("loss: {objective: yes_no}, mining: {teacher: some/model}"))
    with pytest.raises(ConfigError, match="leave mining out"):
        check_recipe(recipe("loss: {objective: cosent}, mining: {}", "scores: true"))
    mixed = "losses: {sts: {objective: cosent}}, mining: {scores: teacher}"
    graded = "name: graded, task: sts, scores: true"
    check_recipe(recipe(mixed, "", graded))
    with pytest.raises(ConfigError, match="graded have no scores"):
        check_recipe(recipe(mixed, "", graded.replace("scores: true", "scores: false")))
