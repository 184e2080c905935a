import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_adapters.formats.flag_embedding import FlagEmbedding
from data_adapters.formats.sentence_transformers import SentenceTransformers
from data_adapters.formats.tevatron import Tevatron
from mmembed.data.adapter import check_adapter
from mmembed.datasets import ExampleRows
from mmembed.errors import ConfigError, InputError
from tests.data_adapters.formats.described import described
from tests.media_files import encode_image, photo

GOLDENS = Path(__file__).parents[1] / "goldens"


def golden(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((GOLDENS / f"format_{name}.json").read_text())
    return found


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def all_rows(rows: Any, root: Path) -> list[dict[str, Any]]:
    check_adapter(rows, "rows")
    assert isinstance(rows, ExampleRows)
    return [described(rows[number], root) for number in range(len(rows))]


FLAG_EMBEDDING = [
    {"query": "what is a cat", "pos": ["a small animal"], "neg": ["a ship", "a tree"]},
    {
        "query": "what is a dog",
        "pos": ["a pet", "an animal that barks"],
        "neg": ["a car"],
        "pos_scores": [0.9, 0.8],
        "neg_scores": [0.1],
        "type": "normal",
    },
    {"query": "who barks", "pos": ["a dog"], "neg": [], "prompt": "Find the passage."},
    {"query": "ein Baum", "pos": ["a tree"], "neg": ["a ship"], "prompt": ""},
    {"query": "a ship", "pos": ["a boat"]},
]


def test_flagembedding_rows(tmp_path: Path) -> None:
    rows = FlagEmbedding(lines(tmp_path / "f.jsonl", *FLAG_EMBEDDING))
    assert all_rows(rows, tmp_path) == golden("flagembedding")


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("normal", "retrieval"),
        ("symmetric_sts", "sts"),
        ("symmetric_class", "classification"),
        ("symmetric_clustering", "clustering"),
    ],
)
def test_the_type_of_flagembedding_is_the_task(tmp_path: Path, kind: str, task: str) -> None:
    path = lines(tmp_path / "f.jsonl", {**FLAG_EMBEDDING[0], "type": kind})
    rows = FlagEmbedding(path)
    assert rows.task == rows[0].task == task
    assert FlagEmbedding(path, task="qa")[0].task == "qa"


TEVATRON = [
    {
        "query_id": "1",
        "query": "what is a cat",
        "positive_passages": [{"docid": "d1", "title": "Cat", "text": "a small animal"}],
        "negative_passages": [{"docid": "d9", "title": "Ship", "text": "a vessel"}],
    },
    {
        "query_id": "2",
        "query": "what is a dog",
        "positive_passages": [
            {"docid": "d2", "text": "a pet"},
            {"docid": "d3", "title": "Dog", "text": "an animal"},
        ],
        "negative_passages": [{"docid": "d8", "text": "a car"}, {"docid": "d7", "text": "a tree"}],
    },
    {
        "query_id": 3,
        "query": "who barks",
        "positive_passages": [{"docid": "d3", "title": "Dog", "text": "an animal"}],
        "negative_passages": [],
    },
    {"query_id": "4", "query": "no ids", "positive_passages": [{"text": "a tree"}]},
    {
        "query_id": "5",
        "query": "an empty title",
        "positive_passages": [{"docid": 7, "title": "", "text": "a boat"}],
        "negative_passages": [],
    },
]


def test_tevatron_rows_with_passages(tmp_path: Path) -> None:
    rows = Tevatron(lines(tmp_path / "t.jsonl", *TEVATRON))
    assert all_rows(rows, tmp_path) == golden("tevatron")
    planned = [rows.document_ids(number) for number in range(len(rows))]
    named = [rows[number].positive_ids for number in range(len(rows))]
    assert [ids for ids in planned if ids in named] == [ids for ids in named if ids]
    assert len(set(planned)) == len(planned) and all(planned)
    other = Tevatron(tmp_path / "t.jsonl", separator="\n")
    assert described(other[0], tmp_path)["positives"] == ["Cat\na small animal"]


def test_tevatron_rows_with_a_corpus(tmp_path: Path) -> None:
    picture = encode_image(photo(4, 3))
    cell = {"bytes": picture, "path": None}
    queries = [
        ("1", "the report of 1999", None, None, ["page-1"], ["text-1"]),
        ("2", "like this", cell, None, ["clip-1", "text-1"], []),
        ("3", "only text", None, None, ["text-1"], ["page-1", "clip-1"]),
        ("4", "four", None, None, ["9"], []),
        ("5", None, None, "clips/q.mp4", ["9"], []),
    ]
    names = ["query_id", "query_text", "query_image", "query_video"]
    names += ["positive_document_ids", "negative_document_ids"]
    table = [dict(zip(names, row, strict=True)) for row in queries]
    documents = [
        {"docid": "page-1", "text": None, "image": cell, "video": None},
        {"docid": "text-1", "title": "A title", "text": "a passage"},
        {"docid": "clip-1", "text": "a clip", "video": "clips/a.mp4"},
        {"docid": "9", "text": "last"},
    ]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "train.parquet")
    columns = ("docid", "title", "text", "image", "video")
    whole = [{column: row.get(column) for column in columns} for row in documents]
    pq.write_table(pa.Table.from_pylist(whole), tmp_path / "corpus.parquet")
    rows = Tevatron(tmp_path / "train.parquet", corpus=tmp_path / "corpus.parquet")
    found = json.dumps(all_rows(rows, tmp_path)).replace(f"{len(picture)} bytes", "PNG")
    assert json.loads(found) == golden("tevatron_corpus")
    with pytest.raises(ConfigError, match="corpus=FILE"):
        Tevatron(tmp_path / "train.parquet")


def test_a_document_that_the_corpus_lacks_spoils_its_rows_alone(tmp_path: Path) -> None:
    corpus = lines(tmp_path / "c.jsonl", {"docid": "a", "text": "A"})
    row = {"query_id": "1", "query_text": "q", "negative_document_ids": []}
    path = lines(
        tmp_path / "t.jsonl",
        {**row, "positive_document_ids": ["b"]},
        {**row, "positive_document_ids": ["a"]},
    )
    rows = Tevatron(path, corpus=corpus)
    with pytest.raises(InputError, match=r"t\.jsonl, line 1: positive_document_ids\[0\].*'b'"):
        rows[0]
    assert rows[1].positive_ids == ("a",)


def as_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    return lines(path / "st.jsonl", *rows)


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with (path / "st.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path / "st.csv"


def as_tsv(path: Path, rows: list[dict[str, Any]]) -> Path:
    table = [rows[0], *(row.values() for row in rows)]
    text = "".join("\t".join(map(str, row)) + "\n" for row in table)
    (path / "st.tsv").write_text(text)
    return path / "st.tsv"


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path / "st.parquet")
    return path / "st.parquet"


def as_saved(path: Path, rows: list[dict[str, Any]]) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(str(path / "st"))
    return path / "st"


FILES = [as_jsonl, as_csv, as_tsv, as_parquet, as_saved]
Write = Callable[[Path, list[dict[str, Any]]], Path]

TRIPLETS = [
    {"anchor": f"a {n}", "positive": f"p {n}", "negative_1": f"n {n}", "negative_2": f"m {n}"}
    for n in range(5)
]
PAIRS = [{"sentence1": f"a {n}", "sentence2": f"b {n}", "score": n / 4} for n in range(5)]


@pytest.mark.parametrize("write", FILES)
def test_n_tuples_and_scored_pairs_read_the_same_from_all_files(
    tmp_path: Path, write: Write
) -> None:
    rows = SentenceTransformers(write(tmp_path, TRIPLETS))
    assert all_rows(rows, tmp_path) == [
        {
            "query": f"a {n}",
            "positives": [f"p {n}"],
            "negatives": [f"n {n}", f"m {n}"],
            "task": "retrieval",
        }
        for n in range(5)
    ]
    other = tmp_path / "pairs"
    other.mkdir()
    pairs = SentenceTransformers(write(other, PAIRS))
    assert all_rows(pairs, tmp_path) == [
        {"query": f"a {n}", "positives": [f"b {n}"], "scores": [n / 4], "task": "sts"}
        for n in range(5)
    ]


@pytest.mark.parametrize(
    ("row", "golden"),
    [
        ({"query": "q", "answer": "a"}, {"query": "q", "positives": ["a"], "task": "retrieval"}),
        ({"text1": "q", "text2": "a"}, {"query": "q", "positives": ["a"], "task": "retrieval"}),
        (
            {"sentence1": "q", "sentence2": "a", "label": 1},
            {"query": "q", "positives": ["a"], "task": "sts", "scores": [1.0]},
        ),
        (
            {"label": 0.5, "sentence2": "first", "sentence1": "second"},  # the order counts
            {"query": "first", "positives": ["second"], "task": "sts", "scores": [0.5]},
        ),
        (
            {"id": "x", "doc_id": 3, "dataset_name": "d", "anchor": "q", "positive": "a"},
            {"query": "q", "positives": ["a"], "task": "retrieval"},
        ),
        (
            {"anchor": "q", "positive": "p", "negative_1": "n", "scores": [0.9, 0.2]},
            {
                "query": "q",
                "positives": ["p"],
                "negatives": ["n"],
                "scores": [0.9, 0.2],
                "task": "retrieval",
            },
        ),
        (
            {"query": "q", "docs": ["a", "b", "c"], "labels": [0, 1, 0]},
            {"query": "q", "positives": ["b"], "negatives": ["a", "c"], "task": "retrieval"},
        ),
        (
            {"anchor": "q", "positive": "p", "negative_1": None, "negative_2": "n"},
            {"query": "q", "positives": ["p"], "negatives": ["n"], "task": "retrieval"},
        ),
        (
            {"anchor": {"text": "q", "image": "a.png"}, "positive": "p"},
            {"query": [{"image": "a.png"}, "q"], "positives": ["p"], "task": "retrieval"},
        ),
    ],
)
def test_columns_of_sentence_transformers(
    tmp_path: Path, row: dict[str, Any], golden: dict[str, Any]
) -> None:
    path = lines(tmp_path / "st.jsonl", row)
    assert all_rows(SentenceTransformers(path), tmp_path) == [golden]


def test_pictures_of_the_hub_are_embedded_in_cells(tmp_path: Path) -> None:
    picture = encode_image(photo(4, 3))
    rows = [{"anchor": "a cat", "positive": {"bytes": picture, "path": None}}]
    found = SentenceTransformers(as_parquet(tmp_path, rows))
    assert described(found[0], tmp_path)["positives"] == [{"image": f"{len(picture)} bytes"}]


def test_columns_and_target_may_be_named(tmp_path: Path) -> None:
    row = {"title": "t", "body": "b", "noise": "x", "grade": 3.5}
    path = lines(tmp_path / "st.jsonl", row)
    rows = SentenceTransformers(path, columns=["body", "title"], label="grade")
    assert described(rows[0], tmp_path) == {
        "query": "b",
        "positives": ["t"],
        "scores": [3.5],
        "task": "sts",
    }
    with pytest.raises(ConfigError, match="no column titel; the file has title, body"):
        SentenceTransformers(path, columns=["body", "titel"])


BAD: list[tuple[type[Any], dict[str, Any], str]] = [
    (FlagEmbedding, {"query": "q", "neg": []}, "no pos; found query, neg"),
    (FlagEmbedding, {"query": "q", "pos": "p"}, "pos: found 'p'; expected a list of texts"),
    (FlagEmbedding, {"query": "q", "pos": ["p", ""]}, "an empty text"),
    (FlagEmbedding, {"query": None, "pos": ["p"]}, "query: found None"),
    (FlagEmbedding, {"query": "q", "pos": ["p"], "pos_scores": [1, 2]}, "pos_scores: found 2"),
    (FlagEmbedding, {"query": "q", "pos": ["p"], "pos_scores": ["x"]}, "expected a number"),
    (FlagEmbedding, {"query": "q", "pos": ["p"], "pos_scores": [10**400]}, "expected a number"),
    (Tevatron, {"query": "q", "positive_passages": []}, "no positive_passages"),
    (Tevatron, {"query": "q", "positive_passages": ["p"]}, r"positive_passages\[0\]: found 'p'"),
    (Tevatron, {"query": "q", "positive_passages": [{"text": ""}]}, "neither text nor media"),
    (Tevatron, {"query": "q", "query_audio": "a", "positive_passages": [{"text": "p"}]}, "sound"),
    (SentenceTransformers, {"anchor": "q", "positive": None}, "positive: |no positive"),
    (SentenceTransformers, {"anchor": "q", "positive": 3}, "positive: found 3"),
    (SentenceTransformers, {"anchor": "q", "positive": "p", "label": 2}, "the class 2"),
    (SentenceTransformers, {"anchor": "q", "positive": "p", "label": "2"}, "the class 2"),
    (SentenceTransformers, {"anchor": "q", "positive": "p", "score": "x"}, "score: found 'x'"),
    (SentenceTransformers, {"anchor": "q", "positive": ["p"], "label": [2]}, "0 or 1"),
    (SentenceTransformers, {"anchor": "q", "positive": ["p"], "label": [0]}, "labelled 1"),
]


@pytest.mark.parametrize(("form", "bad", "words"), BAD)
def test_a_bad_row_names_file_line_and_fault(
    tmp_path: Path, form: type[Any], bad: dict[str, Any], words: str
) -> None:
    good = {key: value for key, value in bad.items() if not key.endswith(("scores", "audio"))}
    cells = {"query": "q", "pos": ["p"], "positive_passages": [{"text": "p"}], "anchor": "q"}
    cells |= {"positive": "p", "label": 1, "score": 0.5}
    good = {key: cells.get(key, value) for key, value in good.items()}
    good = {"pos": ["p"], **good} if form is FlagEmbedding else good
    rows = form(lines(tmp_path / "f.jsonl", good, bad, good))
    with pytest.raises(InputError, match=rf"f\.jsonl, line 2: .*({words})"):
        rows[1]
    assert rows[0] == rows[2]
    assert isinstance(rows.take([0, 1, 2])[1], InputError)


def test_a_row_of_another_type_than_the_first_is_refused(tmp_path: Path) -> None:
    row = {"query": "q", "pos": ["p"]}
    path = lines(tmp_path / "f.jsonl", {**row, "type": "normal"}, {**row, "type": "symmetric_sts"})
    with pytest.raises(InputError, match=r"line 2: type: 'symmetric_sts' means the task sts"):
        FlagEmbedding(path)[1]
    assert FlagEmbedding(path, task="qa")[1].task == "qa"


def test_columns_are_a_list_of_names(tmp_path: Path) -> None:
    path = lines(tmp_path / "f.jsonl", {"anchor": "q", "positive": "p"})
    for wrong in ({"columns": "anchor"}, {"columns": [1]}, {"label": 1}):
        with pytest.raises(ConfigError, match="give "):
            SentenceTransformers(path, **wrong)
