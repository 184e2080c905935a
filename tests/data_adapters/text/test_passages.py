"""Rows that hold their passages: titles, several positives, other names, bad cells."""

from __future__ import annotations

import pytest

from data_adapters.text.passages import load
from mmembed.datasets import DatasetCard
from mmembed.errors import InputError
from tests.data_adapters.text.described import described, golden, words
from tests.data_adapters.text.layouts import write_rows

CARD = DatasetCard("set", "retrieval", "text", "text", config="english")


def passage(docid, text, *title):
    return {"docid": docid, "text": text, **({"title": title[0]} if title else {})}


ROWS = [
    {
        "query_id": "17",
        "query": "who wrote Hamlet",
        "positive_passages": [
            passage("1#0", "A play by Shakespeare.", "Hamlet"),
            passage("2#0", "Untitled words.", ""),
        ],
        "negative_passages": [
            passage("3#0", "Eggs.", "Omelette"),
            passage("4#0", "Houses.", "Village"),
        ],
    },
    {
        "query_id": "18",
        "query": "what is Tydi",
        "positive_passages": [passage("5", "A benchmark.")],
        "negative_passages": [passage("6", "A tide.", None)],
    },
    {
        "query_id": "19",
        "query": "no negatives",
        "positive_passages": [passage("9#9", "A play by Shakespeare.", "Hamlet")],
        "negative_passages": [],
    },
    {
        "query_id": "20",
        "query": "谁写的",
        "positive_passages": [passage("7", "莎士比亚。", "剧本")],
        "negative_passages": [passage("8", "鸡蛋。")],
    },
    {
        "query_id": "21",
        "query": "last",
        "positive_passages": [passage("a", "Done.", "End")],
        "negative_passages": [passage("b", "Go.", "Start")],
    },
]


def opened(folder, rows, **options):
    write_rows(folder / "mrtydi-v1.1-english/train.jsonl.gz", rows)
    return load(CARD, folder, table="mrtydi-v1.1-{config}/{split}.jsonl.gz", **options)


def test_passages_are_read_with_their_titles(tmp_path):
    rows = opened(tmp_path, ROWS, separator=": ")
    found = [rows[index] for index in range(5)]
    assert list(map(described, found)) == golden("text_passages")
    assert found[0].positive_ids[0] == found[2].positive_ids[0], "other id, same content"


def test_the_files_of_dureader_have_other_names_and_no_negatives(tmp_path):
    rows = [
        {"question_id": str(n), "question": f"问题{n}", "answer_paragraphs": [answer]}
        for n, answer in enumerate([{"paragraph_id": "x", "paragraph_text": "答案"}] * 5)
    ]
    write_rows(tmp_path / "train.jsonl", rows)
    found = load(
        CARD,
        tmp_path,
        table="train.jsonl",
        query="question",
        positives="answer_paragraphs",
        negatives="",
        body="paragraph_text",
        title="",
    )
    assert described(found[4]) == {"query_id": "set/4", "query": "问题4", "positives": ["答案"]}


def test_a_few_of_many_negatives_are_drawn_by_seed(tmp_path):
    many = [passage(str(n), f"negative {n}") for n in range(30)]
    rows = [{**row, "negative_passages": many} for row in ROWS]
    drawn = opened(tmp_path, rows, num_hard_negatives=7)
    first = [list(map(words, drawn[n].hard_negatives)) for n in range(5)]
    assert all(len(set(texts)) == 7 for texts in first)
    again = opened(tmp_path, rows, num_hard_negatives=7)
    assert [list(map(words, again[n].hard_negatives)) for n in range(5)] == first
    other = opened(tmp_path, rows, num_hard_negatives=7, seed=1)
    assert [list(map(words, other[n].hard_negatives)) for n in range(5)] != first


def test_bad_passages_are_refused_by_file_and_line(tmp_path):
    bad = [
        {**ROWS[0], "positive_passages": []},
        {**ROWS[0], "positive_passages": "1#0"},
        {**ROWS[0], "negative_passages": [{"docid": "1"}]},
        {**ROWS[0], "query": None},
    ]
    rows = opened(tmp_path, [*bad, ROWS[4]])
    reasons = ["there is no positive", "a list of passages", "'negative_passages.text'", "'query'"]
    for index, reason in enumerate(reasons):
        with pytest.raises(InputError) as caught:
            rows[index]
        assert f"train.jsonl.gz, line {index + 1}" in str(caught.value)
        assert reason in str(caught.value)
    assert words(rows[4].query) == "last"
