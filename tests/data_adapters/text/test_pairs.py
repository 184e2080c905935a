"""Columns of texts as examples: FlagEmbedding, SimCSE, numbered columns, titles, bad cells."""

from __future__ import annotations

import json

import pytest

from data_adapters.text.pairs import load
from mmembed.datasets import DatasetCard
from mmembed.errors import ConfigError, DataError, InputError
from tests.data_adapters.text.described import described, golden, words
from tests.data_adapters.text.layouts import write_rows

CARD = DatasetCard("set", "retrieval", "text", "text")
FLAG = {"query": "query", "positive": "pos", "negatives": ["neg"]}


def examples(rows):
    return [rows[index] for index in range(len(rows))]


def test_flagembedding_lines_keep_lists_instructions_and_teacher_scores(tmp_path):
    same = {"prompt": "Answer.", "type": "normal"}
    write_rows(
        tmp_path / "train.jsonl",
        [
            {"query": "what is a cat", "pos": ["an animal", "a pet"], "neg": ["a car", "a cart"]}
            | {"pos_scores": [0.9, 0.8], "neg_scores": [0.2, 0.1], **same},
            {"query": "what is a dog", "pos": ["an animal"], "neg": ["a dot", ""]}
            | {"pos_scores": [0.9], "neg_scores": [0.3], "prompt": "", "type": "normal"},
            {"query": "什么是猫", "pos": ["一种动物"], "neg": ["汽车"]}
            | {"pos_scores": [], "neg_scores": None, **same},
            {"query": "what is a bee", "pos": ["an insect"], "neg": []}
            | {"pos_scores": None, "neg_scores": None, **same},
            {"query": "what is an owl", "pos": ["a bird"], "neg": ["a towel"]}
            | {"pos_scores": [1], "neg_scores": [0], **same},
        ],
    )
    rows = load(CARD, tmp_path, **FLAG, instruction="prompt", scores=["pos_scores", "neg_scores"])
    found = examples(rows)
    assert list(map(described, found)) == golden("text_pairs")["flag"]
    assert found[0].positive_ids[0] == found[1].positive_ids[0]
    assert len({name for one in found for name in one.positive_ids}) == 5


def test_the_file_of_simcse_is_quoted_csv(tmp_path):
    write_rows(
        tmp_path / "nli_for_simcse.csv",
        [
            {"sent0": "A man, a plan.", "sent1": "A man has a plan."}
            | {"hard_neg": "No man has a plan."},
            {"sent0": 'He said "no".', "sent1": "He refused.", "hard_neg": "He agreed."},
            {"sent0": "It rains.", "sent1": "It is wet.", "hard_neg": "It is dry."},
            {"sent0": "Two\nlines.", "sent1": "Lines.", "hard_neg": "No lines."},
            {"sent0": "End", "sent1": "Finish", "hard_neg": "Start"},
        ],
    )
    rows = load(
        CARD,
        tmp_path,
        table="nli_for_simcse.csv",
        query="sent0",
        positive="sent1",
        negatives=["hard_neg"],
    )
    assert list(map(described, examples(rows))) == golden("text_pairs")["simcse"]


def test_numbered_columns_are_negatives_and_a_title_is_joined_by_the_separator(tmp_path):
    facts = {"Cats": "purr.", "Dogs": "bark.", "Cars": "rust.", "Bees": "hum.", "Owls": "hoot."}
    table = []
    for n, (title, verb) in enumerate(facts.items()):
        others = [f"{name} {does}" for name, does in facts.items() if name != title][:2]
        table.append(
            {"query": f"q{n}", "title": ["", None][n - 1] if n in (1, 2) else title}
            | {"body": f"They {verb}", "negative_1": others[0], "negative_2": others[1]}
        )
    write_rows(tmp_path / "data/train-00000-of-00001.parquet", table)
    rows = load(
        CARD,
        tmp_path,
        query="query",
        positive="body",
        title="title",
        negatives=["negative_*"],
        separator="\n",
    )
    assert list(map(described, examples(rows))) == golden("text_pairs")["titled"]


def test_a_negative_that_is_a_positive_too_is_left_out_with_its_score(tmp_path):
    row = {
        "query": "what is a cat",
        "pos": ["a pet", "an animal"],
        "neg": ["a car", "a pet", "a cart"],
    }
    graded = row | {"pos_scores": [0.9, 0.8], "neg_scores": [0.2, 0.9, 0.1]}
    write_rows(tmp_path / "train.jsonl", [graded])
    (example,) = examples(load(CARD, tmp_path, **FLAG, scores=["pos_scores", "neg_scores"]))
    assert list(map(words, example.hard_negatives)) == ["a car", "a cart"]
    assert example.scores == (0.9, 0.8, 0.2, 0.1)


def test_fewer_negatives_are_drawn_from_the_list_with_their_scores_by_seed(tmp_path):
    names = [f"n{k}" for k in range(20)]
    table = [
        {"query": f"q{n}", "pos": ["p"], "neg": names}
        | {"pos_scores": [1.0], "neg_scores": [k / 20 for k in range(20)]}
        for n in range(5)
    ]
    write_rows(tmp_path / "train.jsonl", table)
    options = {**FLAG, "scores": ["pos_scores", "neg_scores"], "num_hard_negatives": 4}
    found = examples(load(CARD, tmp_path, **options))
    for example in found:
        drawn = list(map(words, example.hard_negatives))
        assert len(drawn) == len(set(drawn)) == 4
        assert drawn == sorted(drawn, key=names.index)
        assert example.scores == (1.0, *(names.index(name) / 20 for name in drawn))
    assert examples(load(CARD, tmp_path, **options)) == found
    assert len({example.hard_negatives for example in found}) > 1
    assert examples(load(CARD, tmp_path, **options, seed=1)) != found
    assert all(len(one.hard_negatives) == 20 for one in examples(load(CARD, tmp_path, **FLAG)))


def test_bad_rows_are_refused_by_file_and_line_and_all_others_stay(tmp_path):
    good = json.dumps({"query": "q", "pos": ["p"], "neg": ["n"]}).encode()
    bad = {
        2: (b'{"query": "q", "pos": "p"', "not JSON"),
        3: (b'{"query": "\xff", "pos": ["p"], "neg": []}', "not UTF-8"),
        4: (b'{"query": "q", "neg": []}', "no column 'pos'"),
        5: (b'{"query": 7, "pos": ["p"], "neg": []}', "'query': found 7; expected a text"),
        6: (b'{"query": " ", "pos": ["p"], "neg": []}', "'query': the text is empty"),
        7: (b'{"query": "q", "pos": [], "neg": []}', "'pos': there is no positive"),
        8: (b'{"query": "q", "pos": ["\\ud800"], "neg": []}', "half of a surrogate pair"),
        9: (b'{"query": "q", "pos": ["p"], "neg": [1]}', "'neg': found 1; expected a text"),
        10: (b'{"query": "q", "pos": ["p"], "neg": null}', "'neg': found None; expected"),
        11: (b'["q", "p"]', "expected an object"),
    }
    lines = [good, *(line for line, _ in bad.values()), good]
    (tmp_path / "train.jsonl").write_bytes(b"\n".join(lines))
    rows = load(CARD, tmp_path, **FLAG)
    assert len(rows) == 12
    for number, (_, reason) in bad.items():
        with pytest.raises(InputError) as caught:
            rows[number - 1]
        assert f"train.jsonl, line {number}" in str(caught.value)
        assert reason in str(caught.value)
    assert described(rows[0]) == described(rows[11]) | {"query_id": "set/0"}


def test_scores_of_another_number_than_the_documents_are_refused(tmp_path):
    row = {"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1.0], "neg_scores": [0.1, 0.2]}
    write_rows(tmp_path / "train.jsonl", [row])
    rows = load(CARD, tmp_path, **FLAG, scores=["pos_scores", "neg_scores"])
    with pytest.raises(InputError, match="line 1: 1 and 2 scores in pos_scores, neg_scores"):
        rows[0]
    with pytest.raises(ConfigError, match="positives and negatives"):
        load(CARD, tmp_path, **FLAG, scores=["pos_scores"])


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"'set': .* has not \*\.csv"):
        load(CARD, tmp_path, table="*.csv", **FLAG)
    with pytest.raises(DataError, match="a table for the split 'train'"):
        load(CARD, tmp_path, **FLAG)
