"""Data sets of pages: rows in the sources' own files become exactly the expected examples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_adapters.catalog import Dataset, find_entry, load_entries
from data_adapters.documents.pdf_queries import PdfQueries
from mmembed.data.opening import open_datasets
from mmembed.errors import ConfigError, DataError, InputError
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from tests.data_adapters.documents.layouts import LAYOUTS, cell, write_parquet
from tests.data_adapters.videos.described import check_rows, described
from tests.media_files import pdf

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens/documents.json").read_text())
SMALL = MediaBudget(min_pixels=28 * 28, max_pixels=56 * 56, num_frames=2)
NAMES = [name for name, entry in load_entries().items() if entry.family in LAYOUTS]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMEMBED_CACHE", str(tmp_path / "cache"))


def prepared(name: str, root: Path) -> Path:
    card = find_entry(name).card
    folder = root / card.repo
    LAYOUTS[find_entry(name).family](card, folder)
    return folder


def picture(item):
    return item.parts[0].source


@pytest.mark.parametrize("name", NAMES)
def test_rows_keep_every_promise_and_equal_the_golden(name, tmp_path):
    folder = prepared(name, tmp_path)
    rows = Dataset(name, tmp_path)
    with MediaDecoder() as decoder:
        examples = check_rows(rows, decoder)
    expected = GOLDENS.get(name, [])
    assert [described(example, folder) for example in examples[: len(expected)]] == expected
    for example in examples:
        assert example.task == rows.card.task
        assert example.query.modality == rows.card.query
        assert {item.modality for item in example.positives} == {rows.card.document}


def test_the_page_of_a_query_is_its_own_and_equal_pages_have_one_id(tmp_path):
    prepared("colpali-train", tmp_path)
    rows = Dataset("colpali-train", tmp_path)
    for index in range(5):
        assert picture(rows[index].positives[0]) == cell(min(index, 3))["bytes"]
    assert rows[3].positive_ids == rows[4].positive_ids != rows[2].positive_ids
    assert rows.document_ids(4) == rows[4].positive_ids


def test_negatives_are_the_pages_of_those_ids_and_pages_without_a_query_are_no_rows(tmp_path):
    prepared("vdr-multilingual-en", tmp_path)
    rows = Dataset("vdr-multilingual-en", tmp_path)
    assert len(rows) == 3
    shown = [picture(item) for item in rows[0].hard_negatives]
    assert shown == [cell(number)["bytes"] for number in (3, 4, 1)]
    assert len(Dataset("vdr-multilingual-en", tmp_path, max_negatives=2)[0].hard_negatives) == 2


def test_a_page_without_a_name_is_planned_by_the_id_that_its_row_has(tmp_path):
    folder = prepared("colpali-train", tmp_path)
    for file in (folder / "data").iterdir():
        file.unlink()
    names = ["a.jpg", "", None]
    rows = [
        {"query": "?", "image": cell(n), "image_filename": name} for n, name in enumerate(names)
    ]
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows)
    found = Dataset("colpali-train", tmp_path)
    ids = [found.document_ids(index) for index in range(3)]
    assert ids == [found[index].positive_ids for index in range(3)]
    assert len(set(ids)) == 3


def test_a_page_is_no_negative_of_itself(tmp_path):
    folder = prepared("vdr-multilingual-en", tmp_path)
    rows = [
        {"id": "p0", "query": "where?", "image": cell(0), "negatives": ["p0", "p1"]},
        {"id": "p1", "query": None, "image": cell(1), "negatives": None},
    ]
    write_parquet(folder / "en" / "train-00000-of-00001.parquet", rows)
    (negative,) = Dataset("vdr-multilingual-en", tmp_path, max_negatives=1)[0].hard_negatives
    assert picture(negative) == cell(1)["bytes"]


def test_questions_without_an_answer_ask_for_pages_only(tmp_path):
    folder = prepared("colpali-train-qa", tmp_path)
    for file in (folder / "data").iterdir():
        file.unlink()
    rows = [
        {"query": f"query {n}", "image": cell(n), "image_filename": f"{n}.jpg", "answer": answer}
        for n, answer in enumerate(["B", None, "C"])
    ]
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows)
    assert len(Dataset("colpali-train", tmp_path)) == 3
    asked = Dataset("colpali-train-qa", tmp_path)
    assert [row.positives[0].parts[0].text for row in check_rows(asked)] == ["B", "C"]


def test_sources_keep_rows_of_some_sources(tmp_path):
    prepared("visrag-in-domain", tmp_path)
    rows = Dataset("visrag-in-domain", tmp_path, sources=["PlotQA", "ICML Papers"])
    assert [row.query.parts[0].text for row in check_rows(rows)] == [
        "query 1",
        "query 3",
        "query 4",
    ]
    assert picture(rows[0].positives[0]) == cell(1)["bytes"]
    prepared("colpali-train", tmp_path)
    with pytest.raises(ConfigError, match="sources needs source"):
        Dataset("colpali-train", tmp_path, sources=["pdf"])


def test_every_question_of_a_document_is_a_row_and_names_the_same_document(tmp_path):
    prepared("docmatix-images", tmp_path)
    rows = Dataset("docmatix-images", tmp_path, turns="all", direction="t2i")
    asked = [example.query.parts[0].text for example in check_rows(rows)]
    assert asked == ["Q0.0", "Q1.0", "Q1.1", "Q2.0", "Q3.0", "Q3.1", "Q4.0"]
    assert rows[1].positive_ids == rows[2].positive_ids != rows[3].positive_ids
    answered = Dataset("docmatix-images", tmp_path, turns="all", direction="qa", max_pages=1)
    assert [part.__class__.__name__ for part in answered[2].query.parts] == ["Image", "Text"]
    assert answered[2].positives[0].parts[0].text == "A1.1"


def test_a_bad_row_is_refused_with_its_place_and_the_others_stay(tmp_path):
    folder = prepared("visrag-synthetic", tmp_path)
    rows = [
        {"query": "good", "image": cell(0), "source": "x"},
        {"query": " ", "image": cell(1), "source": "x"},
        {"query": "no page", "image": {"bytes": None, "path": None}, "source": "x"},
        {"query": "leaves", "image": {"bytes": None, "path": "../x.png"}, "source": "x"},
    ]
    for file in (folder / "data").iterdir():
        file.unlink()
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows)
    found = Dataset("visrag-synthetic", tmp_path)
    for index, code in {1: "empty", 2: "empty", 3: "forbidden_path"}.items():
        with pytest.raises(InputError, match=rf"train-00000.*{index + 1}") as caught:
            found[index]
        assert caught.value.code == code
    assert found[0].query.parts[0].text == "good"


def test_a_negative_that_no_page_is_called_is_refused(tmp_path):
    folder = prepared("vdr-multilingual-en", tmp_path)
    rows = [
        {"id": "a", "query": "q", "image": cell(0), "negatives": ["zz"]},
        {"id": "b", "query": "q2", "image": cell(1), "negatives": ["a"]},
    ]
    write_parquet(folder / "en" / "train-00000-of-00001.parquet", rows)
    found = Dataset("vdr-multilingual-en", tmp_path)
    with pytest.raises(InputError, match="no page is called 'zz'"):
        found[0]
    assert len(found[1].hard_negatives) == 1


def test_missing_shards_refuse_the_data_set(tmp_path):
    folder = prepared("colpali-train", tmp_path)
    (folder / "data" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="shards"):
        Dataset("colpali-train", tmp_path)


def test_own_pdf_files_and_a_table_of_queries_are_rows(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a.pdf").write_bytes(pdf(3))
    table = tmp_path / "queries.jsonl"
    rows = [
        {"pdf": "files/a.pdf", "page": 2, "query": "second"},
        {
            "pdf": "files/a.pdf",
            "page": "2-3",
            "query": "more",
            "negatives": [{"pdf": "files/a.pdf", "page": 1}],
        },
        {"pdf": "files/a.pdf", "query": "all of it"},
        {"pdf": "files/b.pdf", "page": 1, "query": "lost"},
        {"pdf": "files/a.pdf", "page": 1.5, "query": "half"},
        {"pdf": "files/a.pdf", "page": 2, "query": "second, again"},
    ]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (opened,) = open_datasets(table)
    found = opened.adapter
    assert isinstance(found, PdfQueries)
    with MediaDecoder() as decoder:
        assert len(decoder.decode(found[1].positives[0].parts[0], SMALL).frames) == 2
    pages = [found[index].positives[0].parts[0].pages for index in (0, 1, 2)]
    assert pages == ["2", "2-3", None]
    assert found[1].hard_negatives[0].parts[0].pages == "1"
    assert found[0].positive_ids == found[5].positive_ids != found[1].positive_ids
    for index, place in ((3, "line 4"), (4, "line 5")):
        with pytest.raises(InputError, match=place):
            found[index]
