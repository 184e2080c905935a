"""Reading comprehension: questions to passages, and passages with questions to answers."""

from __future__ import annotations

import pytest

from data_adapters.text.reading import load
from mmembed.datasets import DatasetCard
from mmembed.errors import ConfigError, InputError
from tests.data_adapters.text.described import described, golden, words
from tests.data_adapters.text.layouts import write_rows

CARD = DatasetCard("set", "retrieval", "text", "text")
HAMLET = "Shakespeare wrote Hamlet."


def row(title, passage, question, *answers):
    return {
        "id": question,
        "title": title,
        "context": passage,
        "question": question,
        "answers": {"text": list(answers), "answer_start": [0] * len(answers)},
    }


ROWS = [
    row("Hamlet", HAMLET, "Who wrote it?", "Shakespeare", "Shakespeare"),
    row("Hamlet", HAMLET, "What did he write?", "Hamlet", "the play"),
    row("Hamlet", HAMLET, "When?"),
    row("Zug", "Zug is in Switzerland.", "Where is Zug?", "in Switzerland"),
    row("", "莎士比亚。", "谁?", "莎士比亚"),
]


def examples(rows):
    return [rows[index] for index in range(len(rows))]


def test_questions_find_their_passage_whether_it_answers_them_or_not(tmp_path):
    write_rows(tmp_path / "data/train-00000-of-00001.parquet", ROWS)
    found = examples(load(CARD, tmp_path, title="title"))
    assert list(map(described, found)) == golden("text_reading")["passage"]
    assert found[0].positive_ids == found[1].positive_ids == found[2].positive_ids
    assert len({example.positive_ids for example in found}) == 3


def test_passage_and_question_find_all_different_answers(tmp_path):
    write_rows(tmp_path / "data/train-00000-of-00001.parquet", ROWS)
    rows = load(CARD, tmp_path, form="answer", cue=" | ")
    assert list(map(described, examples(rows))) == golden("text_reading")["answer"]
    assert rows.where(2) == "train-00000-of-00001.parquet, row 4"


def test_bad_rows_are_refused_by_line_and_an_unknown_form_at_once(tmp_path):
    bad = [{**ROWS[0], "answers": 7}, {**ROWS[0], "question": None}, {**ROWS[0], "context": ""}]
    write_rows(tmp_path / "train.jsonl", [*bad, ROWS[1]])
    rows = load(CARD, tmp_path, form="answer")
    for index, column in enumerate(["answers", "question", "context"]):
        with pytest.raises(InputError, match=f"train.jsonl, line {index + 1}, '{column}'"):
            rows[index]
    assert words(rows[3].positives[0]) == "Hamlet"
    with pytest.raises(ConfigError, match="form is 'question'"):
        load(CARD, tmp_path, form="question")
