"""The rule of means against loops, and what a data set that is lacking does to them.

`test_reference_scores.py` checks the rule on the 78 published values of one model and on every
printed row of the bundled tables.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmembed.evaluation.aggregation import Mean, cells, complete_values, means
from tests.evaluation.made_up_runs import card, hits, result

# group -> (modality, number of data sets), as in the benchmark of 78
GROUPS = {
    "I-CLS": ("image", 10), "I-QA": ("image", 10), "I-RET": ("image", 12), "I-GD": ("image", 4),
    "V-CLS": ("video", 5), "V-QA": ("video", 5), "V-RET": ("video", 5), "V-MRET": ("video", 3),
    "D-1": ("visdoc", 10), "D-2": ("visdoc", 4), "D-3": ("visdoc", 6), "D-4": ("visdoc", 4),
}  # fmt: skip
CARDS = [
    card(
        f"{group}-{number}",
        modality,
        group,
        split=("IND", "OOD")[number % 2] if modality == "image" else "",
    )
    for group, (modality, count) in GROUPS.items()
    for number in range(count)
]


def by_name(found: tuple[Mean, ...]) -> dict[tuple[str, str], Mean]:
    return {(each.level, each.name): each for each in found}


@given(st.integers(0, 2**32))
def test_every_mean_is_that_of_its_data_sets(seed: int):
    numbers = random.Random(seed)
    values = {each.name: numbers.random() for each in CARDS}
    found = by_name(means(values, CARDS))
    assert len(found) == 12 + 3 + 2 + 1

    def loop(chosen) -> float:
        total, count = 0.0, 0
        for each in CARDS:
            if chosen(each):
                total, count = total + values[each.name], count + 1
        return total / count

    for group in GROUPS:
        expected = loop(lambda each, group=group: each.group == group)
        assert found["group", group].value == pytest.approx(expected)
    for modality in ("image", "video", "visdoc"):
        expected = loop(lambda each, modality=modality: each.modality == modality)
        assert found["modality", modality].value == pytest.approx(expected)
    for split in ("IND", "OOD"):
        assert found["split", split].value == pytest.approx(
            loop(lambda each, split=split: each.split == split)
        )
    assert found["overall", "all"].value == pytest.approx(loop(lambda each: True))


def test_a_data_set_counts_once_whatever_its_group_and_its_queries():
    cards = [card("a", "image", "big"), card("b", "image", "big"), card("c", "image", "small")]
    results = {
        "a": result(cards[0], hits(1000, 1.0)),
        "b": result(cards[1], hits(10, 0.0)),
        "c": result(cards[2], hits(10, 0.5)),
    }
    found = by_name(means(complete_values(results), cards))
    assert found["group", "big"].value == 0.5
    assert found["modality", "image"].value == 0.5  # (1 + 0 + 0.5) / 3
    values = {"a": 1.0, "b": 0.0, "c": 0.0}
    assert by_name(means(values, cards))["modality", "image"].value == pytest.approx(1 / 3)


def test_a_lacking_data_set_empties_the_means_that_contain_it_and_no_other():
    values = {each.name: 0.5 for each in CARDS if each.name != "V-QA-3"}
    found = by_name(means(values, CARDS))
    empty = {key for key, each in found.items() if each.value is None}
    assert empty == {("group", "V-QA"), ("modality", "video"), ("overall", "all")}
    assert found["overall", "all"].coverage == "77/78"
    assert not found["modality", "video"].is_complete


def test_partial_means_say_what_they_cover():
    values = {"I-CLS-0": 0.25, "I-CLS-1": 0.75, "V-QA-0": 1.0}
    found = by_name(means(values, CARDS, partial=True))
    assert (found["group", "I-CLS"].value, found["group", "I-CLS"].coverage) == (0.5, "2/10")
    assert (found["overall", "all"].value, found["overall", "all"].coverage) == (2 / 3, "3/78")
    nothing = found["modality", "visdoc"]
    assert (nothing.value, nothing.coverage) == (None, "0/24")


@pytest.mark.parametrize("partial", [False, True])
def test_a_data_set_with_missing_media_enters_no_mean(partial: bool):
    cards = [card("whole"), card("torn")]
    results = {
        "whole": result(cards[0], [1.0, 0.0]),
        "torn": result(cards[1], [1.0, 1.0], missing=("a.png",)),
    }
    found = means(complete_values(results), cards, partial=partial)
    assert found[-1].coverage == "1/2"
    assert found[-1].value == (0.5 if partial else None)


def test_what_is_not_of_the_suite_enters_no_mean():
    assert means({"a": 0.5, "stranger": 1.0}, [card("a")])[-1].value == 0.5


def test_groups_of_one_name_in_two_modalities_stay_apart():
    found = cells([card("a", "image", "OOD", split="OOD"), card("b", "visdoc", "OOD")])
    assert found["group", "image", "OOD"] == ("a",)
    assert found["group", "visdoc", "OOD"] == ("b",)
    assert found["split", "image", "OOD"] == ("a",)


def test_ties_decide_which_value_is_averaged():
    tied = result("a", [0.0, 0.0], official=[1.0, 0.0])
    assert complete_values({"a": tied}) == {"a": 0.0}
    assert complete_values({"a": tied}, "official") == {"a": 0.5}
