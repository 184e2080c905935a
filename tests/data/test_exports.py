import json
from pathlib import Path
from typing import Any

import pytest

from mmembed.data.exports import (
    Export,
    FlagEmbeddingExport,
    SentenceTransformersExport,
    TevatronExport,
)
from mmembed.errors import InputError
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Text


def text(words: str, instruction: str | None = None) -> MultimodalInput:
    return MultimodalInput((Text(words),), instruction)


def example(positives: int = 1, negatives: int = 0, **fields: Any) -> ContrastiveExample:
    return ContrastiveExample(
        query=text("q"),
        positives=tuple(text(f"p{n}") for n in range(positives)),
        hard_negatives=tuple(text(f"n{n}") for n in range(negatives)),
        **fields,
    )


def written(export: Export, *examples: ContrastiveExample) -> list[dict[str, Any]]:
    with export:
        for each in examples:
            export.write(each)
    return [json.loads(line) for line in export.path.read_text().splitlines()]


def test_columns_of_sentence_transformers(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert written(
        SentenceTransformersExport(path), example(2, 2, scores=(0.9, 0.8, 0.2, 0.1))
    ) == [
        {
            "anchor": "q",
            "positive": f"p{n}",
            "negative_1": "n0",
            "negative_2": "n1",
            "scores": [score, 0.2, 0.1],
        }
        for n, score in enumerate((0.9, 0.8))
    ]
    assert written(SentenceTransformersExport(path), example(task="sts", scores=(0.5,))) == [
        {"sentence1": "q", "sentence2": "p0", "score": 0.5}
    ]


def test_all_rows_of_a_file_have_the_same_columns(tmp_path: Path) -> None:
    with SentenceTransformersExport(tmp_path / "r.jsonl") as export:
        export.write(example(1, 1))
        with pytest.raises(InputError, match="0 negatives; all rows of the file have 1"):
            export.write(example(1, 0))
        with pytest.raises(InputError, match="would have the columns anchor, positive, negative_1"):
            export.write(example(1, 1, scores=(1.0, 0.0)))
        export.write(example(1, 3))
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    assert len(lines) == export.num_rows == 2 and lines[0] == lines[1]


def test_the_number_of_negatives_may_be_chosen(tmp_path: Path) -> None:
    export = SentenceTransformersExport(tmp_path / "r.jsonl", negatives=1)
    rows = written(export, example(1, 3), example(1, 1))
    assert rows == [{"anchor": "q", "positive": "p0", "negative_1": "n0"}] * 2


def test_lines_of_flagembedding(tmp_path: Path) -> None:
    given = ContrastiveExample(
        query=text("q", "find"),
        positives=(text("p0"), text("p1")),
        hard_negatives=(text("n0"),),
        task="clustering",
        scores=(0.9, 0.8, 0.1),
    )
    rows = written(FlagEmbeddingExport(tmp_path / "r.jsonl"), given, example())
    assert rows == [
        {
            "query": "q",
            "pos": ["p0", "p1"],
            "neg": ["n0"],
            "pos_scores": [0.9, 0.8],
            "neg_scores": [0.1],
            "prompt": "find",
            "type": "symmetric_clustering",
        },
        {"query": "q", "pos": ["p0"], "neg": []},
    ]


def test_lines_of_tevatron(tmp_path: Path) -> None:
    rows = written(
        TevatronExport(tmp_path / "r.jsonl"),
        example(1, 1, query_id="r", positive_ids=("d",)),
        example(1, 1),
    )
    first, second = rows
    assert first["query_id"] == "r" and second["query_id"] == "2"
    assert first["positive_passages"] == [{"docid": "d", "text": "p0"}]
    assert first["negative_passages"] == second["negative_passages"]
    assert len(second["positive_passages"][0]["docid"]) == 16


@pytest.mark.parametrize(
    "export", [SentenceTransformersExport, FlagEmbeddingExport, TevatronExport]
)
@pytest.mark.parametrize(
    ("item", "words"),
    [
        (MultimodalInput((Image(Path("a.png")),)), r"positives\[0\] is image"),
        (MultimodalInput((Text("a"), Text("b"))), "several texts"),
        (text("p", "do"), "has an instruction"),
        (text("\ud800"), "surrogate"),
    ],
)
def test_what_a_format_of_texts_cannot_hold_is_refused(
    tmp_path: Path, export: type[Export], item: MultimodalInput, words: str
) -> None:
    with export(tmp_path / "r.jsonl") as writer, pytest.raises(InputError, match=words):
        writer.write(ContrastiveExample(text("q"), (item,)))
    assert (tmp_path / "r.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("export", "left"),
    [
        (SentenceTransformersExport, {"id", "positive_ids", "label", "task", "meta"}),
        (FlagEmbeddingExport, {"id", "positive_ids", "label", "meta", "task"}),
        (TevatronExport, {"label", "task", "meta", "scores"}),
    ],
)
def test_what_has_no_place_is_counted(tmp_path: Path, export: type[Export], left: set[str]) -> None:
    row = example(query_id="r", positive_ids=("d",), label="c", task="qa", scores=(1.0,))
    with export(tmp_path / "r.jsonl") as writer:
        writer.write(row, source="s")
        writer.write(row, source="s")
    assert writer.left == dict.fromkeys(left, 2)


def test_an_unfinished_file_does_not_appear(tmp_path: Path) -> None:
    with pytest.raises(KeyError), FlagEmbeddingExport(tmp_path / "r.jsonl") as export:
        export.write(example())
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_graded_pair_is_no_positive_of_tevatron(tmp_path: Path) -> None:
    pair = ContrastiveExample(text("q"), (text("p"),), task="sts", scores=(0.0,))
    with TevatronExport(tmp_path / "r.jsonl") as export, pytest.raises(InputError, match="graded"):
        export.write(pair)
    assert not export.left


def test_only_rows_that_were_written_count_as_having_lost_something(tmp_path: Path) -> None:
    row = ContrastiveExample(text("q", "do"), (text("p"),), scores=(1.0,))
    with TevatronExport(tmp_path / "r.jsonl") as export, pytest.raises(InputError):
        export.write(row)
    assert not export.left


def test_negatives_beyond_those_of_the_first_row_are_counted(tmp_path: Path) -> None:
    with SentenceTransformersExport(tmp_path / "r.jsonl") as export:
        export.write(example(1, 1))
        export.write(example(1, 3))
    assert export.left == {"negatives beyond the first 1": 1}
