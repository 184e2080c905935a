"""Pairs with grades: the scale of the source, labels of inference, both ways, positives only."""

from __future__ import annotations

import pytest

from data_adapters.text.graded import load
from mmembed.datasets import DatasetCard
from mmembed.errors import InputError
from tests.data_adapters.text.described import described, golden, words
from tests.data_adapters.text.layouts import write_rows

CARD = DatasetCard("set", "sts", "text", "text")
PAIRS = [
    ("A plane is taking off.", "An air plane is taking off.", 5.0),
    ("A man plays a flute.", "A man plays a large flute.", 3.8),
    ("Three men play chess.", "Two men play chess.", 2.6),
    ("A cat sleeps.", "A dog runs.", 0.0),
    ("一个人在弹琴。", "有人弹琴。", 4.25),
]
STS = [{"sentence1": first, "sentence2": second, "score": score} for first, second, score in PAIRS]
GRADES = {"entailment": 2, "neutral": 1, "contradiction": 0, "-": None}


def examples(rows):
    return [rows[index] for index in range(len(rows))]


def test_grades_stay_on_the_scale_of_the_source(tmp_path):
    write_rows(tmp_path / "data/train-00000-of-00001.parquet", STS)
    found = examples(load(CARD, tmp_path))
    assert list(map(described, found)) == golden("text_graded")["sts"]
    assert all(example.task == "sts" for example in found)


def test_only_high_grades_and_both_ways_as_losses_that_know_positives_ask(tmp_path):
    write_rows(tmp_path / "train.jsonl", STS)
    assert len(load(CARD, tmp_path, above=4.25)) == 1
    rows = load(CARD, tmp_path, above=4, both_ways=True)
    assert list(map(described, examples(rows))) == golden("text_graded")["turned"]
    assert rows.where(1) == rows.where(3) == "train.jsonl, line 5"
    assert rows[0].positive_ids != rows[2].positive_ids
    with pytest.raises(IndexError):
        rows[4]


def test_labels_of_inference_become_grades_and_pairs_without_a_label_are_left_out(tmp_path):
    labelled = [
        ("It rains.", "It is wet.", "entailment"),
        ("It rains.", "It is cold.", "neutral"),
        ("It rains.", "It is dry.", "contradiction"),
        ("It rains.", "It is Tuesday.", "-"),
        ("He runs.", "He moves.", "entailment"),
    ]
    write_rows(
        tmp_path / "train.jsonl",
        [{"premise": one, "hypothesis": two, "label": label} for one, two, label in labelled],
    )
    columns = {"first": "premise", "second": "hypothesis", "score": "label"}
    rows = load(CARD, tmp_path, **columns, grades=GRADES)
    assert list(map(described, examples(rows))) == golden("text_graded")["inference"]


def test_numbers_are_read_from_tables_with_tabs(tmp_path):
    write_rows(
        tmp_path / "SICK_train.txt",
        [{"pair_ID": 1, "sentence_A": "a", "sentence_B": "b", "relatedness_score": "4.5"}],
    )
    columns = {"first": "sentence_A", "second": "sentence_B", "score": "relatedness_score"}
    (example,) = examples(load(CARD, tmp_path, table="SICK_train.txt", **columns))
    assert example.scores == (4.5,)
    assert words(example.query) == "a"


@pytest.mark.parametrize("above", [None, 4])
def test_bad_grades_are_refused_by_file_and_line(tmp_path, above):
    bad = [{**STS[0], "score": cell} for cell in ("high", None, float("nan"))]
    write_rows(tmp_path / "train.jsonl", [*bad, {**STS[0], "sentence2": ""}, STS[0]])
    rows = load(CARD, tmp_path, above=above)
    for index, column in enumerate(["score"] * 3 + ["sentence2"]):
        with pytest.raises(InputError, match=f"train.jsonl, line {index + 1}, '{column}'"):
            rows[index]
    assert rows[4].scores == (5.0,)


def test_a_label_that_is_not_in_the_table_is_refused(tmp_path):
    write_rows(tmp_path / "train.jsonl", [{**STS[0], "score": "maybe"}, {**STS[0], "score": "-"}])
    rows = load(CARD, tmp_path, grades=GRADES)
    assert len(rows) == 1
    with pytest.raises(InputError, match="line 1, 'score': found 'maybe'; expected one of entail"):
        rows[0]
