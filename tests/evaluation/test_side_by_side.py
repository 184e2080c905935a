"""Runs beside each other: only what was judged over the same data."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmembed.evaluation.side_by_side import side_by_side
from mmembed.evaluation.summary import summarise
from mmembed.evaluation.tables import as_json, as_markdown
from tests.evaluation.made_up_runs import card, hits, result, run

CARDS = [card("a"), card("b", modality="text", group="T-RET")]


def test_values_stand_in_the_order_of_the_suite_behind_the_means(tmp_path: Path) -> None:
    ours = run(tmp_path / "ours", *(result(each, hits(10, 0.5)) for each in CARDS), model="ours")
    other = run(tmp_path / "clip", *(result(each, hits(10, 0.2)) for each in CARDS), model="clip")
    found = side_by_side(ours, [other], CARDS)
    assert found.names == ("ours", "clip")
    assert [title for title, _ in found.rows][-2:] == ["a", "b"]
    for _, values in found.rows:
        assert values == pytest.approx((0.5, 0.2))
    summary = summarise(ours, CARDS, others=[other])
    text = as_markdown(summary)
    assert "## Beside other models" in text and "50.00" in text and "20.00" in text
    assert as_json(summary)["beside"]["names"] == ("ours", "clip")
    assert summarise(ours, CARDS).beside is None


def test_other_data_under_the_same_name_give_no_value_and_no_mean(tmp_path: Path) -> None:
    ours = run(tmp_path / "ours", *(result(each, hits(10, 0.5)) for each in CARDS), model="ours")
    more = [result(CARDS[0], hits(12, 0.5)), result(CARDS[1], hits(10, 0.2))]
    found = dict(side_by_side(ours, [run(tmp_path / "x", *more, model="x")], CARDS).rows)
    assert found["a"] == (0.5, None)
    assert found["b"] == pytest.approx((0.5, 0.2))
    assert [values[1] for title, values in found.items() if "all" in title] == [None]


def test_two_runs_of_one_model_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    runs = [run(tmp_path / name, result(CARDS[0], hits(10, 0.5)), model="M") for name in "xy"]
    assert side_by_side(runs[0], runs[1:], CARDS).names == ("M (x)", "M (y)")
