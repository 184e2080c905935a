"""Two runs: planted losses are found, equal runs never differ, other tests are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.errors import DataError
from mmembed.evaluation.comparison import compare_runs
from mmembed.evaluation.results import RunResults, TaskResult
from tests.evaluation.made_up_runs import card, hits, result, run


def runs(*results: tuple[TaskResult, TaskResult], **record: Any) -> tuple[RunResults, RunResults]:
    return (
        RunResults(Path("A"), {one.name: one for one, _ in results}, record),
        RunResults(Path("B"), {two.name: two for _, two in results}, record),
    )


def shuffled(rate: float, num: int = 1000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(hits(num, rate))


def test_a_run_never_differs_from_itself():
    one, two = runs(*[(result(f"t{n}", shuffled(0.1 * n)),) * 2 for n in range(1, 8)])
    found = compare_runs(one, two)
    assert {row.p for row in found.rows} == {1.0}
    assert {row.verdict for row in found.rows} == {"no difference seen"}
    assert not found.regressions()


def test_a_planted_loss_of_five_points_is_found_where_it_is():
    """t3 loses 50 of its 1000 hits; the others change 40 queries, half of them either way."""
    both = []
    for number in range(5):
        of = card(f"t{number}", "image", "I-CLS" if number < 3 else "I-QA")
        before = shuffled(0.6, seed=number)
        after = before.copy()
        right, wrong = np.flatnonzero(before == 1), np.flatnonzero(before == 0)
        if number == 3:
            after[right[:50]] = 0
        else:
            after[right[:20]], after[wrong[:20]] = 0, 1
        both.append((result(of, before), result(of, after)))
    found = compare_runs(*runs(*both))
    rows = {(row.level, row.name): row for row in found.rows}
    worse = {key for key, row in rows.items() if row.verdict == "worse"}
    assert worse == {("task", "t3"), ("group", "I-QA"), ("modality", "image"), ("overall", "all")}
    lost = rows["task", "t3"]
    assert lost.difference == pytest.approx(-0.05)
    assert lost.interval.low < -0.05 < lost.interval.high < 0
    assert rows["group", "I-QA"].difference == pytest.approx(-0.025)
    assert rows["overall", "all"].difference == pytest.approx(-0.01)
    assert {row.name for row in found.regressions(0.02)} == {"t3", "I-QA"}
    assert not found.regressions(0.05)
    back = compare_runs(*reversed(runs(*both)))
    assert {row.name for row in back.rows if row.verdict == "better"} == {n for _, n in worse}
    assert not back.regressions()


def test_means_average_tasks_not_queries():
    big = card("big"), card("small")
    found = compare_runs(*runs(
        (result(big[0], hits(1000, 0.5)), result(big[0], hits(1000, 0.5))),
        (result(big[1], hits(10, 0.5)), result(big[1], hits(10, 0.6))),
    )).rows[-1]  # fmt: skip
    assert (found.first, found.second) == pytest.approx((0.5, 0.55))
    assert (found.num_tasks, found.num_queries) == (2, 1010)


def test_the_order_of_tasks_changes_no_number():
    both = [(result(f"t{n}", shuffled(0.5, 50, n)), result(f"t{n}", shuffled(0.5, 50, n + 9)))
            for n in range(4)]  # fmt: skip
    there = {(row.level, row.name): row for row in compare_runs(*runs(*both)).rows}
    back = {(row.level, row.name): row for row in compare_runs(*runs(*both[::-1])).rows}
    for key, row in there.items():
        assert back[key].p == pytest.approx(row.p)
        assert back[key].interval.low == pytest.approx(row.interval.low)


def test_p_values_are_adjusted_for_all_rows():
    both = [(result(f"t{n}", shuffled(0.5, 200, n)), result(f"t{n}", shuffled(0.45, 200, n + 9)))
            for n in range(6)]  # fmt: skip
    rows = compare_runs(*runs(*both)).rows
    smallest = min(rows, key=lambda row: row.p)
    assert smallest.p < 0.1
    assert smallest.adjusted_p == pytest.approx(min(1.0, len(rows) * smallest.p))


ONE = result("a", hits(20, 0.5))
OTHERS = [
    (result("a", hits(20, 0.5), num_documents=51), "50 and 51 documents"),
    (result("a", hits(21, 0.5)), "queries only in the second: q20"),
    (result("a", hits(20, 0.5), ids=[f"q{n}" for n in range(19)] + ["x"]),
     "queries only in the first: q19"),
    (result("a", hits(20, 0.5), ids=[f"q{n}" for n in reversed(range(20))]), "another order"),
    (result(card("a", main_metric="hit@5"), hits(20, 0.5)), "main_metric is 'hit@1' and 'hit@5'"),
    (result(card("a", source="other/a"), hits(20, 0.5)), "source is"),
    (result("a", hits(20, 0.5), missing=("x.png",)), "other media are missing"),
]  # fmt: skip


@pytest.mark.parametrize(("other", "message"), OTHERS)
def test_runs_over_other_tests_are_refused_by_what_differs(other: TaskResult, message: str):
    with pytest.raises(DataError, match="do not judge the same") as error:
        compare_runs(*runs((ONE, other)))
    assert message in str(error.value)


def test_other_tasks_are_refused_or_left_out_by_name():
    one = RunResults(Path("A"), {"a": ONE, "b": result("b", [1.0])})
    two = RunResults(Path("B"), {"a": ONE, "c": result("c", [1.0])})
    with pytest.raises(DataError, match=r"first run, A: b; .*second run, B: c"):
        compare_runs(one, two)
    found = compare_runs(one, two, partial=True)
    assert [row.name for row in found.rows if row.level == "task"] == ["a"]
    assert len(found.notes) == 2
    with pytest.raises(DataError, match="no task in common"):
        compare_runs(one, RunResults(Path("C"), {"c": two.tasks["c"]}), partial=True)


def test_tasks_that_lack_the_same_media_are_compared_when_asked_for():
    torn = replace(ONE, missing=("x.png",))
    with pytest.raises(DataError, match="1 media are missing in both"):
        compare_runs(*runs((torn, torn)))
    assert compare_runs(*runs((torn, torn)), partial=True).rows[0].p == 1.0


def test_other_prompts_are_said():
    one, two = runs((ONE, ONE), profile={"name": "x", "sha256": "1"})
    two = replace(two, record={"profile": {"name": "y", "sha256": "2"}})
    assert "prompts of profiles x and y" in compare_runs(one, two).notes[0]


def test_few_changed_queries_are_significant_together_only(tmp_path: Path):
    """Four queries of each of three tasks became worse: 2^-3 alone, 2^-11 in their mean."""
    one = run(tmp_path / "a", *(result(name, [1.0] * 4) for name in "xyz"))
    two = run(tmp_path / "b", *(result(name, [0.0] * 4) for name in "xyz"))
    found = {row.name: row for row in compare_runs(one, two).rows}
    assert [found[name].p for name in "xyz"] == [2.0**-3] * 3
    assert found["all"].p == 2.0**-11
    assert (found["x"].verdict, found["all"].verdict) == ("no difference seen", "worse")
