"""Judgements joined with corpus and queries, against a join of dictionaries; their faults."""

from __future__ import annotations

import json
from random import Random

import pytest

from data_adapters.catalog import Dataset, find_entry
from data_adapters.text.judgements import load
from mmembed.datasets import DatasetCard
from mmembed.errors import ConfigError, DataError, InputError
from tests.data_adapters.text.described import described, golden, words
from tests.data_adapters.text.layouts import write_entry, write_rows

CARD = DatasetCard("set", "retrieval", "text", "text")
CORPUS = [
    {"_id": "d1", "title": "Hamlet", "text": "by Shakespeare"},
    {"_id": "d2", "title": "Shakespeare", "text": "Wrote plays."},
    {"_id": "d3", "title": "", "text": "Eggs are food."},
    {"_id": "d4", "title": "Title only", "text": ""},
    {"_id": "5", "title": "Five", "text": "A number."},
]
QUERIES = [
    {"_id": "q1", "text": "what is a title only"},
    {"_id": "q2", "text": "who wrote Hamlet"},
    {"_id": "q3", "text": "judged irrelevant only"},
    {"_id": "q4", "text": "shared document"},
    {"_id": "q5", "text": "never judged"},
]
JUDGED = ["q2\td1\t1", "q2\td3\t0", "q1\td4\t2", "q3\td1\t0", "q2\td2\t1", "q4\td1\t1", "q2\td1\t1"]


def write_beir(folder, judged=JUDGED, corpus=CORPUS, queries=QUERIES):
    write_rows(folder / "corpus.jsonl", corpus)
    write_rows(folder / "queries.jsonl", queries)
    (folder / "qrels").mkdir()
    lines = ["query-id\tcorpus-id\tscore", *judged]
    (folder / "qrels/train.tsv").write_text("\n".join(lines) + "\n")


def examples(rows):
    return [rows[index] for index in range(len(rows))]


def test_queries_of_beir_have_their_relevant_documents_and_judged_negatives(tmp_path):
    write_beir(tmp_path)
    rows = load(CARD, tmp_path)
    found = examples(rows)
    assert list(map(described, found)) == golden("text_judgements")["beir"]
    assert found[0].positive_ids[0] == found[2].positive_ids[0]
    assert rows.where(0) == "train.tsv, row 1"
    assert {file.name for file in rows.files} == {"corpus.jsonl", "queries.jsonl", "train.tsv"}
    assert examples(load(CARD, tmp_path)) == found


def test_topics_and_judgements_of_miracl_find_the_corpus_of_another_repository(tmp_path):
    folder = tmp_path / "miracl/miracl"
    topics, judged = (
        "topics/topics.miracl-v1.0-en-train.tsv",
        "qrels/qrels.miracl-v1.0-en-train.tsv",
    )
    for name, lines in (
        (topics, ["0\tWho was Ada?", "1\tWhat is Zug?"]),
        (judged, ["0\tQ0\t1#0\t1", "0\tQ0\t2#0\t0", "1\tQ0\t3#0\t1", "1\tQ0\t3#1\t1"]),
    ):
        file = folder / "miracl-v1.0-en" / name
        file.parent.mkdir(parents=True)
        file.write_text("\n".join(lines) + "\n")
    pages = [
        {"docid": "1#0", "title": "Ada", "text": "A mathematician."},
        {"docid": "2#0", "title": "Ada (language)", "text": "A language."},
        {"docid": "3#0", "title": "Zug", "text": "A town."},
        {"docid": "3#1", "title": "Zug (canton)", "text": "A canton."},
        {"docid": "4#0", "title": "Bee", "text": "An insect."},
    ]
    place = tmp_path / "miracl/miracl-corpus/miracl-corpus-v1.0-en"
    write_rows(place / "docs-0.jsonl.gz", pages[:2])
    write_rows(place / "docs-1.jsonl.gz", pages[2:])
    card = DatasetCard("set", "retrieval", "text", "text", repo="miracl/miracl", config="en")
    rows = load(card, folder, layout="miracl")
    assert list(map(described, examples(rows))) == golden("text_judgements")["miracl"]


def test_mined_negatives_of_t2ranking_leave_out_what_is_relevant(tmp_path):
    files = {
        "collection.tsv": ["pid\tpassage", "0\t猫吃鱼。", "1\t狗吃肉。", "2\t鸟吃虫。", "3\t无"],
        "queries.train.tsv": ["qid\tquery", "7\t猫吃什么", "8\t狗吃什么"],
        "qrels.retrieval.train.tsv": ["qid\tpid", "7\t0", "8\t1"],
        "train.mined.tsv": [
            "7\t1\t0\t9.5",
            "7\t0\t1\t9.4",
            "8\t0\t0\t8.0",
            "7\t2\t2\t7.0",
            "9\t3\t0\t1.0",
            "8\t77\t1\t1.0",
        ],
    }
    (tmp_path / "data").mkdir()
    for name, lines in files.items():
        (tmp_path / "data" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = load(CARD, tmp_path, layout="t2ranking", mined=True)
    assert list(map(described, examples(rows))) == golden("text_judgements")["t2ranking"]
    plain = load(CARD, tmp_path, layout="t2ranking")
    assert [example.hard_negatives for example in examples(plain)] == [(), ()]
    few = load(CARD, tmp_path, layout="t2ranking", mined=True, num_hard_negatives=1)
    assert [len(example.hard_negatives) for example in examples(few)] == [1, 1]


def test_a_join_of_many_rows_is_that_of_dictionaries(tmp_path):
    rng = Random(0)
    corpus = {f"doc {n}": f"text {n}" for n in range(400)}
    queries = {str(n): f"query {n}" for n in range(150)}
    grades = [
        (rng.choice(list(queries)), rng.choice(list(corpus)), rng.choice([0, 0, 1, 2]))
        for _ in range(1500)
    ]
    relevant, others = {}, {}
    for query, document, grade in grades:
        place = relevant if grade else others
        place.setdefault(query, {})[corpus[document]] = None
    write_beir(
        tmp_path,
        [f"{query}\t{document}\t{grade}" for query, document, grade in grades],
        [{"_id": name, "title": "", "text": text} for name, text in corpus.items()],
        [{"_id": name, "text": text} for name, text in queries.items()],
    )
    order = list(dict.fromkeys(query for query, *_ in grades))
    expected = [
        (
            queries[name],
            list(relevant[name]),
            [text for text in others.get(name, ()) if text not in relevant[name]],
        )
        for name in order
        if name in relevant
    ]
    found = [
        (words(one.query), list(map(words, one.positives)), list(map(words, one.hard_negatives)))
        for one in examples(load(CARD, tmp_path))
    ]
    assert found == expected


def test_judgements_that_name_what_is_not_there_are_refused_by_line(tmp_path):
    judged = [
        "q1\td4\t1",
        "q2\tnowhere\t1",
        "nobody\td1\t1",
        "q4\td1\tmaybe",
        "q5\td2",
        "q4\td1\t1",
    ]
    write_beir(tmp_path, judged)
    rows = load(CARD, tmp_path)
    reasons = {
        1: "row 2: no document 'nowhere' in corpus.jsonl",
        2: "row 3: no query 'nobody' in queries.jsonl",
        3: "row 4, 'score': found 'maybe'; expected a number",
        4: "row 5: 2 cells",
    }
    assert len(rows) == 6
    for index, reason in reasons.items():
        with pytest.raises(InputError) as caught:
            rows[index]
        assert f"train.tsv, {reason}" in str(caught.value)
    assert words(rows[0].query) == "what is a title only"
    assert words(rows[5].query) == "shared document"


def test_a_bad_document_spoils_only_the_rows_that_need_it(tmp_path):
    write_beir(tmp_path)
    lines = (tmp_path / "corpus.jsonl").read_text().splitlines()
    lines[3] = json.dumps({"_id": "d4", "title": None, "text": None})
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    rows = load(CARD, tmp_path)
    with pytest.raises(InputError, match=r"corpus\.jsonl, line 4, 'text'"):
        rows[1]
    assert words(rows[2].query) == "shared document"


def test_a_join_follows_its_files(tmp_path):
    write_beir(tmp_path)
    assert len(load(CARD, tmp_path)) == 3
    lines = (tmp_path / "qrels/train.tsv").read_text() + "q5\td2\t1\n"
    (tmp_path / "qrels/train.tsv").write_text(lines)
    assert words(load(CARD, tmp_path)[3].query) == "never judged"


def test_what_is_missing_or_unknown_is_named(tmp_path):
    write_rows(tmp_path / "corpus.jsonl", CORPUS)
    with pytest.raises(DataError, match=r"has not queries.jsonl or queries.jsonl.gz"):
        load(CARD, tmp_path)
    with pytest.raises(ConfigError, match="layout is 'trec'; it must be one of: beir"):
        load(CARD, tmp_path, layout="trec")
    with pytest.raises(ConfigError, match="has no mined negatives"):
        load(CARD, tmp_path, mined=True)


def test_the_corpus_of_another_repository_is_found_in_the_cache_of_the_hub(tmp_path):
    hub = tmp_path / "hub"
    write_entry(find_entry("miracl-en"), tmp_path / "plain")
    for name in ("miracl", "miracl-corpus"):
        place = hub / f"datasets--miracl--{name}" / "snapshots"
        place.mkdir(parents=True)
        (tmp_path / "plain/miracl" / name).rename(place / "0123abc")
    example = Dataset("miracl-en", hub)[4]
    assert list(map(words, example.positives)) == ["Title d4 document 0"]
    (hub / "datasets--miracl--miracl-corpus").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"miracl/miracl-corpus has not .*docs-\*\.jsonl\.gz"):
        Dataset("miracl-en", hub)
