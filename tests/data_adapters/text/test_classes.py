"""Classification and clustering sets, as labels and as examples."""

from __future__ import annotations

import json

import pytest

from data_adapters.catalog import find_entry
from data_adapters.text.classes import load
from mmembed.datasets import DatasetCard
from mmembed.errors import ConfigError, DataError, InputError
from tests.data_adapters.text.described import described, golden, words
from tests.data_adapters.text.layouts import write_entry, write_rows

CARD = DatasetCard("set", "classification", "text", "text")
ROWS = [
    {"text": "joyful", "label": 1, "label_text": "joy"},
    {"text": "angry", "label": 3, "label_text": "anger"},
    {"text": "happy", "label": 1, "label_text": "joy"},
    {"text": "afraid", "label": 4, "label_text": "fear"},
    {"text": "furious", "label": 3, "label_text": "anger"},
]
MANY = [{"text": f"text {n}", "label": f"class {n % 20}"} for n in range(200)]


def examples(rows):
    return [rows[index] for index in range(len(rows))]


def in_order(example):
    """Draws have no order of their own."""
    found = described(example)
    return found | {key: sorted(found[key]) for key in ("negatives", "negative_labels")}


def test_two_classes_of_one_name_are_no_negatives_of_each_other(tmp_path):
    again = [{"text": "cheerful", "label": 7, "label_text": "joy"}]
    write_rows(tmp_path / "train.jsonl", [*ROWS, *again])
    for example in examples(load(CARD, tmp_path, form="label")):
        assert len(example.hard_negatives) == len(example.negative_labels)
        assert example.label not in example.negative_labels
        assert words(example.positives[0]) not in map(words, example.hard_negatives)


def test_labels_are_documents_among_other_labels(tmp_path):
    write_rows(tmp_path / "train.jsonl", ROWS)
    found = examples(load(CARD, tmp_path, form="label"))
    assert list(map(in_order, found)) == golden("text_classes")["label"]
    for example in found:
        assert list(example.negative_labels) == list(map(words, example.hard_negatives))
    assert found[0].positive_ids == found[2].positive_ids != found[1].positive_ids


def test_examples_are_documents_and_a_text_alone_in_its_class_asks_for_nothing(tmp_path):
    write_rows(tmp_path / "train.jsonl", ROWS)
    golds = golden("text_classes")["example"]
    found = examples(load(CARD, tmp_path, num_hard_negatives=4))
    for example, gold in zip(found, golds, strict=True):
        # four places for two classes, of which that of one text has only it
        assert in_order(example) == gold


def test_positives_are_other_texts_of_the_class_and_negatives_of_different_others(tmp_path):
    write_rows(tmp_path / "train.jsonl", MANY)
    label_of = {row["text"]: row["label"] for row in MANY}
    for most in (0, 7, 19, 25):
        for example in examples(load(CARD, tmp_path, num_hard_negatives=most)):
            query, (positive,) = words(example.query), map(words, example.positives)
            others = list(map(words, example.hard_negatives))
            assert query != positive
            assert label_of[query] == label_of[positive] == example.label
            assert [label_of[other] for other in others] == list(example.negative_labels)
            assert len(others) == len(set(others)) == most
            assert example.label not in example.negative_labels
            assert len(set(example.negative_labels)) == min(most, 19)


def test_every_text_of_the_class_can_be_the_positive(tmp_path):
    write_rows(tmp_path / "train.jsonl", MANY)
    drawn = {seed: load(CARD, tmp_path, seed=seed)[0].positives for seed in range(100)}
    texts = {words(item) for (item,) in drawn.values()}
    assert texts == {f"text {n}" for n in range(20, 200, 20)}
    assert drawn[7] == load(CARD, tmp_path, seed=7)[0].positives


def test_labels_of_another_data_set_fill_up_too_few(tmp_path):
    write_entry(find_entry("banking77"), tmp_path)
    folder = tmp_path / "owner/name"
    write_rows(folder / "train.jsonl", ROWS)
    rows = load(CARD, folder, form="label", num_hard_negatives=4, borrow=["banking77"])
    for example in examples(rows):
        own = {"joy", "anger", "fear"} - {example.label}
        assert set(example.negative_labels) == own | {"no", "yes"}
    renamed = {"1": "yes", "3": "anger", "4": "fear"}
    rows = load(CARD, folder, form="label", label_text="", labels=renamed, borrow=["banking77"])
    assert set(rows[0].negative_labels) == {"anger", "fear", "no"}
    few = load(CARD, folder, form="label", num_hard_negatives=3, borrow=["banking77"])
    assert all(len(example.hard_negatives) == 3 for example in examples(few))
    with pytest.raises(DataError, match=r"borrows labels of 'imdb', which is not beside"):
        load(CARD, folder, form="label", borrow=["imdb"])
    with pytest.raises(DataError, match="'sts12', which has none"):
        write_entry(find_entry("sts12"), tmp_path)
        load(CARD, folder, form="label", borrow=["sts12"])


def test_numbers_need_words_to_be_documents_and_are_classes_of_their_own_set(tmp_path):
    numbers = [{"text": row["text"], "label": row["label"]} for row in ROWS]
    write_rows(tmp_path / "train.jsonl", numbers)
    assert load(CARD, tmp_path)[0].label == "set/1"
    with pytest.raises(ConfigError, match=r"no words for the labels set/1, set/3, set/4"):
        load(CARD, tmp_path, form="label")
    named = {"1": "joy", "3": "anger", "4": "fear"}
    rows = load(CARD, tmp_path, form="label", labels=named)
    assert list(map(in_order, examples(rows))) == golden("text_classes")["label"]


def test_clustering_sets_join_title_and_abstract(tmp_path):
    table = [
        {"title": f"T{n}", "abstract": f"A{n}", "category": "ab"[n % 2], "id": n} for n in range(5)
    ]
    write_rows(tmp_path / "train_0.jsonl.gz", table)
    card = DatasetCard("set", "clustering", "text", "text")
    options = {"body": "abstract", "title": "title", "label": "category", "separator": "\n"}
    example = load(card, tmp_path, table="train_*.jsonl.gz", **options)[1]
    assert example.task == "clustering"
    assert words(example.query) == "T1\nA1"
    assert words(example.positives[0]) == "T3\nA3"


def test_bad_rows_are_refused_by_line_and_drawn_by_nobody(tmp_path):
    bad = ["{", '{"text": null, "label": "a"}', '{"text": "x", "label": null}', '{"text": "y"}']
    good = [json.dumps(row) for row in MANY[:45]]
    (tmp_path / "train.jsonl").write_text("\n".join([*bad, *good]))
    rows = load(CARD, tmp_path)
    assert len(rows) == 49
    for index, reason in enumerate(["not JSON", "'text': found None", "a text with a label"]):
        with pytest.raises(InputError, match=f"train.jsonl, line {index + 1}.*{reason}"):
            rows[index]
    with pytest.raises(InputError, match="line 4"):
        rows[3]
    assert len([rows[index] for index in range(4, 49)]) == 45


def test_options_that_mean_nothing_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="form is 'word'; it must be one of: example, label"):
        load(CARD, tmp_path, form="word")
    with pytest.raises(ConfigError, match="num_hard_negatives is -1"):
        load(CARD, tmp_path, num_hard_negatives=-1)
