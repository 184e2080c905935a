"""Nano suites: fixed parts of tasks, and what their numbers are worth."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mmembed.errors import DataError
from mmembed.evaluation.calibration import calibrate, read_calibration
from mmembed.evaluation.results import RunResults, TaskResult
from mmembed.evaluation.subsets import Subset, subset_card, subset_task
from mmembed.tasks import RetrievalTask, SimilarityTask, TaskCard
from tests.evaluation.fixture_suite import text

Value = TypeVar("Value")

QUERIES = [f"q{n}" for n in range(30)]
DOCUMENTS = [f"d{n}" for n in range(100)]
TASK = RetrievalTask(
    "task",
    {name: text(name) for name in QUERIES},
    {name: text(name) for name in DOCUMENTS},
    {name: {f"d{n}": 1.0, f"d{n + 1}": 0.5} for n, name in enumerate(QUERIES)},
)
SUBSET = Subset(queries=5, documents=20)


def lowest(kind: str, names: list[str], count: int) -> set[str]:
    return set(
        sorted(names, key=lambda n: hashlib.sha256(f"task\0{kind}\0{n}".encode()).digest())[:count]
    )


def backwards(found: Mapping[str, Value]) -> dict[str, Value]:
    return dict(list(found.items())[::-1])


def part_of(task: Any, subset: Subset = SUBSET) -> Any:
    return subset_task(task, subset)


def test_queries_are_those_with_the_lowest_hashes_and_keep_their_answers() -> None:
    part = part_of(TASK)
    assert set(part.queries) == lowest("query", QUERIES, 5)
    relevant = {name for query in part.queries for name in TASK.relevant[query]}
    others = [name for name in DOCUMENTS if name not in relevant]
    assert set(part.corpus) == relevant | lowest("document", others, 20 - len(relevant))
    assert part.relevant == {name: TASK.relevant[name] for name in part.queries}


def test_the_part_is_the_same_in_any_order_of_the_source() -> None:
    turned = replace(TASK, queries=backwards(TASK.queries), corpus=backwards(TASK.corpus))
    part, other = part_of(TASK), part_of(turned)
    assert set(part.queries) == set(other.queries) and set(part.corpus) == set(other.corpus)
    assert list(part.corpus) == [name for name in DOCUMENTS if name in part.corpus]


def test_a_larger_part_has_the_smaller_one_in_it() -> None:
    small, large = part_of(TASK), part_of(TASK, Subset(queries=9, documents=20))
    assert set(small.queries) < set(large.queries)


def test_answers_are_kept_even_when_they_are_more_than_asked_for() -> None:
    part = part_of(TASK, Subset(queries=30, documents=1))
    assert set(part.corpus) == {name for grades in TASK.relevant.values() for name in grades}


def test_pools_are_kept_whole_with_all_their_documents() -> None:
    pools = {name: [f"d{n}", "d99", "d98"] for n, name in enumerate(QUERIES)}
    part = part_of(replace(TASK, pools=pools), Subset(queries=5, documents=1))
    assert part.pools == {name: pools[name] for name in part.queries}
    assert set(part.corpus) == {name for pool in part.pools.values() for name in pool}


def test_pairs_are_cut_with_their_scores() -> None:
    pairs = {name: (text("a"), text(name)) for name in QUERIES}
    task = SimilarityTask("task", pairs, {name: 1.0 for name in QUERIES})
    part = part_of(task)
    assert set(part.pairs) == set(part.scores) == lowest("pair", QUERIES, 5)


def test_a_part_of_everything_is_everything() -> None:
    part = part_of(TASK, Subset(queries=1000, documents=1000))
    assert part == TASK


def test_the_card_says_that_it_is_a_part_and_promises_no_counts() -> None:
    card = TaskCard("t", "m", "g", "hit@1", "s", num_queries=1000, num_documents=50, note="old")
    part = subset_card(card, SUBSET)
    assert part.note == "subset: at most 5 queries and 20 documents of a corpus; old"
    assert part.num_queries is part.num_documents is None


def run_of(space: str, values: Mapping[str, float], **record: Any) -> RunResults:
    tasks = {
        name: TaskResult(
            TaskCard(name, "text", f"G-{name}", "hit@1", "s"),
            {"pessimistic": {"hit@1": value}},
            10,
            10,
        )
        for name, value in values.items()
    }
    fields = {
        "space": space,
        "model": f"model {space}",
        "suite": "nano",
        "subset": SUBSET.model_dump(),
        "profile": {"sha256": "p"},
        **record,
    }
    return RunResults(Path(f"runs/{space}"), tasks, fields)


FULL: dict[str, Any] = {"suite": "whole", "subset": None}


def test_a_calibration_has_the_bias_and_the_agreement_of_every_mean() -> None:
    nano = [{"a": 0.5, "b": 0.7}, {"a": 0.6, "b": 0.8}, {"a": 0.7, "b": 0.6}]
    full = [{"a": 0.4, "b": 0.1}, {"a": 0.5, "b": 0.2}, {"a": 0.6, "b": 0.3}]
    found = calibrate(
        [(run_of(str(i), nano[i]), run_of(str(i), {**full[i], "c": 0.0}, **FULL)) for i in range(3)]
    )
    first = found["aggregates"]["group text/G-a"]
    assert first["bias"] == pytest.approx(-0.1)
    assert first["spread"] == pytest.approx(0.0, abs=1e-12)
    assert first["correlation"] == pytest.approx(1.0)
    assert first["rank_agreement"] == 1.0
    second = found["aggregates"]["group text/G-b"]
    assert second["bias"] == pytest.approx(-0.5)
    assert second["rank_agreement"] == pytest.approx(1 / 3)  # of the three pairs one is alike
    assert found["aggregates"]["overall /all"]["bias"] == pytest.approx(-0.3)
    assert len(found["models"]) == 3


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(run_of("1", {"a": 0}), run_of("1", {"a": 0}, **FULL))] * 3, "1 distinct models"),
        ([(run_of("1", {"a": 0}, **FULL), run_of("1", {"a": 0}))], "a nano run and then a full"),
        ([(run_of("1", {"a": 0}), run_of("2", {"a": 0}, **FULL))], "of different models"),
        ([(run_of("1", {"a": 0}), run_of("1", {"b": 0}, **FULL))], "lacks a of"),
        (
            [(run_of("1", {"a": 0}), run_of("1", {"a": 0}, profile={"sha256": "q"}, **FULL))],
            "of different profiles",
        ),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    pairs: list[tuple[RunResults, RunResults]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        calibrate(pairs)


def test_a_calibration_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing"):
        read_calibration(tmp_path / "gone.json")
    (tmp_path / "c.json").write_text('{"format": "other"}')
    with pytest.raises(DataError, match="no calibration of this version"):
        read_calibration(tmp_path / "c.json")
