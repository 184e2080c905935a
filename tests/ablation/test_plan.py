"""What an experiment file may say, which runs follow from it, and how queries are ranked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmembed.ablation.judge import METRICS, first_ranks, metrics_of
from mmembed.ablation.plan import Ablation, Comparison, Run, load_ablation
from mmembed.config.validation import validate
from mmembed.errors import ConfigError
from mmembed.tasks import RetrievalTask
from mmembed.types import MultimodalInput

ANYTHING = {"reference": "tests.ablation.rows:texts"}


def fields(**changes):
    return {
        "texts": ANYTHING,
        "checkpoint": {},
        "recipe": {
            "defaults": {"data": [{"adapter": "tests.ablation.rows:Colours"}]},
            "stages": [{"steps": 2}, {"steps": 3}],
        },
        "tasks": [{"title": "colours", **ANYTHING}],
        "problems": [{"name": "clean"}, {"name": "other", "set": ["stages.1.steps=4"]}],
        "arms": [
            {"name": "plain"},
            {"name": "a", "set": ["stages.1.loss.hardness.alpha=3"]},
            {"name": "b", "against": ["a", "plain"], "problems": ["clean"]},
        ],
        "control": "plain",
        "primary": {"task": "colours", "metric": "MRR"},
        "seeds": [3, 4],
        **changes,
    }


def plan(**changes) -> Ablation:
    return validate(Ablation, fields(**changes), where="test")


def test_every_arm_runs_on_its_problems_with_every_seed():
    runs = plan().runs()
    assert len(runs) == len(set(runs)) == 2 * (2 + 2 + 1)
    assert [run.seed for run in runs] == [3] * 5 + [4] * 5


def test_comparisons_are_with_the_control_unless_said_otherwise():
    assert plan().comparisons() == [
        Comparison("clean", "a", "plain"),
        Comparison("clean", "b", "a"),
        Comparison("clean", "b", "plain"),
        Comparison("other", "a", "plain"),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"control": "plane"}, "did you mean 'plain'"),
        ({"primary": {"task": "colours", "metric": "R@3"}}, "R@10"),
        ({"problems": [{"name": "clean", "primary": {"task": "x", "metric": "MRR"}}]}, "colours"),
        ({"seeds": [1]}, "seeds"),
        ({"seeds": [1, 1]}, "two seeds are named 1"),
        ({"arms": [{"name": "plain"}, {"name": "a", "problems": ["x"]}]}, "known: clean, other"),
        ({"arms": [{"name": "plain"}, {"name": "a", "against": ["a"]}]}, "with itself"),
        (
            {"arms": [{"name": "plain", "problems": ["clean"]}, {"name": "a"}]},
            "does not run on other",
        ),
        ({"arms": [{"name": "plain"}, {"name": "a", "sets": []}]}, "did you mean 'set'"),
    ],
)
def test_names_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        plan(**changes)


def test_a_wrong_override_names_its_arm(tmp_path: Path):
    arms = [{"name": "plain"}, {"name": "a", "set": ["stages.1.loss.hardnes.alpha=3"]}]
    path = tmp_path / "x.yaml"
    path.write_text(str(fields(arms=arms)).replace("'", '"'), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"arm 'a', problem 'clean': .*did you mean 'hardness'"):
        load_ablation(str(path))


def test_narrowing_keeps_what_the_arms_are_compared_with():
    narrowed = plan().narrowed(["b"])
    assert [arm.name for arm in narrowed.arms] == ["plain", "a", "b"]
    assert [arm.name for arm in plan().narrowed(["a"]).arms] == ["plain", "a"]
    narrow = plan(arms=[*fields()["arms"][:1], {"name": "c", "problems": ["other"]}])
    assert {run.problem for run in narrow.narrowed(["c"]).runs()} == {"other"}
    assert plan(seeds=[5, 6, 7]).narrowed(None, 2).seeds == (5, 6)
    for arms, seeds in ((["c"], None), (["plain"], None), (None, 1), (None, 3)):
        with pytest.raises(ConfigError):
            plan().narrowed(arms, seeds)


def test_the_seed_stands_in_for_its_placeholder():
    arms = [{"name": "plain"}, {"name": "a", "set": ["stages.1.seed=10{seed}"]}]
    recipe = plan(arms=arms).resolved(Run("clean", "a", 4), Path("x"))
    assert (recipe.seed, recipe.stages[0].seed, recipe.stages[1].seed) == (4, None, 104)


def test_fingerprints_change_with_settings_and_not_with_names_or_new_defaults():
    run = Run("clean", "plain", 3)
    same = plan(
        recipe={
            "name": "other",
            "defaults": {
                "data": [{"adapter": "tests.ablation.rows:Colours"}],
                "loss": {"hardness": {"alpha": 0.0}},
                "log_every": 1,
            },
            "stages": [{"steps": 2, "name": "x"}, {"steps": 3}],
        }
    )
    assert plan().fingerprint(run) == same.fingerprint(run)
    different = [
        plan().fingerprint(Run("clean", "plain", 4)),
        plan().fingerprint(Run("clean", "a", 3)),
        plan().fingerprint(Run("other", "plain", 3)),
        plan(checkpoint={"hidden_size": 8}).fingerprint(run),
        plan(tasks=[{"title": "colours", **ANYTHING, "arguments": {"k": 1}}]).fingerprint(run),
    ]
    assert len({plan().fingerprint(run), *different}) == 6


def test_arms_share_the_stages_before_the_one_they_change():
    def start(problem, arm, seed):
        found = plan().start_of(plan().resolved(Run(problem, arm, seed), Path("x")))
        return found[0]

    assert start("clean", "plain", 3) == start("clean", "a", 3) == start("other", "a", 3)
    assert start("clean", "plain", 3) != start("clean", "plain", 4)


def test_the_shipped_file_resolves_and_its_arms_share_a_start_on_each_problem():
    shipped = load_ablation()
    assert len(shipped.seeds) >= 5
    starts: dict[str, set[str]] = {}
    for run in shipped.runs():
        if run.seed == shipped.seeds[0] and run.arm != "one stage":
            found = shipped.start_of(shipped.resolved(run, Path("x")))
            starts.setdefault(run.problem, set()).add(found[0])
    assert {len(names) for names in starts.values()} == {1}


@given(st.integers(0, 10**6))
def test_first_ranks_are_those_of_the_whole_ranking(seed):
    random = np.random.default_rng(seed)
    documents = random.integers(-1, 2, (7, 2)).astype(np.float32)  # few values, many ties
    queries = random.integers(-1, 2, (5, 2)).astype(np.float32)
    item = MultimodalInput.of("x")
    task = RetrievalTask(
        name="t",
        queries={f"q{row}": item for row in range(5)},
        corpus={f"d{row}": item for row in range(7)},
        relevant={
            f"q{row}": {f"d{each}": 1.0 for each in random.permutation(7)[: row + 1]}
            for row in range(5)
        },
    )
    slow = []
    for name, query in zip(task.queries, queries, strict=True):
        order = sorted(range(7), key=lambda place: -float(query @ documents[place]))  # stable
        slow.append(1 + min(order.index(int(each[1:])) for each in task.relevant[name]))
    assert first_ranks(task, queries, documents).tolist() == slow


def test_a_query_without_an_answer_is_no_query():
    item = MultimodalInput.of("x")
    task = RetrievalTask("t", {"q": item}, {"d": item}, {"q": {"elsewhere": 1.0}})
    with pytest.raises(ValueError, match="'q' has no relevant document"):
        first_ranks(task, np.ones((1, 2)), np.ones((1, 2)))


def test_metrics_of_known_ranks():
    found = metrics_of(np.array([1, 2, 20]))
    assert tuple(found) == METRICS
    assert found == pytest.approx(
        {"-ln rank": -np.log(40) / 3, "MRR": (1 + 0.5 + 0.05) / 3, "R@1": 1 / 3, "R@10": 2 / 3}
    )
    assert metrics_of(np.array([1, 1])) == {"-ln rank": 0.0, "MRR": 1.0, "R@1": 1.0, "R@10": 1.0}
