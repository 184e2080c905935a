import json
from pathlib import Path
from typing import Any

import pytest

from mmembed.data.formats import detect_format, list_formats, load_format
from mmembed.data.opening import open_datasets
from mmembed.errors import ConfigError, DataError

TALK = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("jsonl", {"query": "q", "positives": ["p"]}),
    ("jsonl", {"query": "q", "positive": "p"}),
    ("jsonl", {"id": "1", "query": "q", "positives": ["p"], "negatives": [], "task": "qa"}),
    ("jsonl", {"query": "q", "positives": ["p"], "negatvies": []}),
    ("sentence-transformers", {"anchor": "q", "positive": "p"}),
    ("sentence-transformers", {"query": "q", "positive": "p", "negative": "n"}),
    ("sentence-transformers", {"anchor": "q", "positive": "p", "negative_1": "n"}),
    ("sentence-transformers", {"sentence1": "q", "sentence2": "p", "score": 0.5}),
    ("sentence-transformers", {"premise": "q", "hypothesis": "p", "label": 1}),
    ("sentence-transformers", {"query": "q", "answer": "p"}),
    ("sentence-transformers", {"text1": "q", "text2": "p"}),
    ("sentence-transformers", {"query": "q", "docs": ["p", "n"], "labels": [1, 0]}),
    ("flagembedding", {"query": "q", "pos": ["p"], "neg": ["n"]}),
    ("tevatron", {"query_id": "1", "query": "q", "positive_passages": [{"text": "p"}]}),
    ("swift", {"messages": TALK[:1], "positive_messages": [TALK[:1]]}),
    ("swift", {"messages": TALK, "rejected_response": "n"}),
    ("swift", {"query": "q", "response": "a", "rejected_response": "n"}),
    ("chat", {"messages": TALK}),
    ("chat", {"messages": TALK, "images": []}),
    ("chat", {"id": 1, "conversations": [{"from": "human", "value": "q"}]}),
]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_exactly_one_format_fits(tmp_path: Path, name: str, row: dict[str, Any]) -> None:
    fits = [each for each in list_formats() if load_format(each).matches(list(row), row)]
    assert fits == [name]
    assert detect_format(write(tmp_path / "f.jsonl", row)) == name


def test_the_first_good_row_decides(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", [1], {"query": "q", "pos": ["p"]})
    assert detect_format(path) == "flagembedding"


def test_columns_of_no_format_and_of_two_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", {"query": "q", "positivs": ["p"]})
    with pytest.raises(ConfigError, match=r"columns query, positivs, which fit none .*--format"):
        detect_format(path)
    write(path, {"query": "q", "positives": ["p"], "pos": ["p"]})
    with pytest.raises(ConfigError, match="fit jsonl and flagembedding; choose one with --format"):
        detect_format(path)
    write(path, {"query": "q", "positive": "p", "label": 1})  # a class, or a similarity?
    with pytest.raises(ConfigError, match="fit jsonl and sentence-transformers; choose one"):
        detect_format(path)
    path.write_text("")
    with pytest.raises(DataError, match=r"f\.jsonl has no rows"):
        detect_format(path)
    path.write_text("words\n{")
    with pytest.raises(DataError, match=r"none of its 2 rows .* f\.jsonl, line 1: not JSON"):
        detect_format(path)
    with pytest.raises(DataError, match="no such file"):
        detect_format(tmp_path / "absent.jsonl")
    with pytest.raises(ConfigError, match="did you mean 'tevatron'"):
        load_format("tevatrn")


def test_a_file_is_opened_by_its_format_with_options(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", {"query": "q", "pos": ["p"]})
    (opened,) = open_datasets(path, arguments=["task=qa", "name=mine"])
    assert (opened.name, opened.adapter.task, opened.card) == ("mine", "qa", None)
    assert opened.reference == list_formats()["flagembedding"]
