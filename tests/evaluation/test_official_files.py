"""The three files of the public scorers: written, read, and read by code like theirs."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from mmembed.errors import DataError
from mmembed.evaluation.metrics import COUNTS, METRICS
from mmembed.evaluation.official_files import (
    list_official,
    read_official,
    write_official,
    write_score,
)
from mmembed.evaluation.scoring import score_retrieval
from mmembed.tasks import RetrievalTask, TaskCard
from mmembed.types import MultimodalInput

ITEM = MultimodalInput.of("anything")


def unit(rng, count):
    rows = rng.normal(size=(count, 6)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


RNG = np.random.default_rng(0)
QUERIES, DOCUMENTS = unit(RNG, 3), unit(RNG, 8)
NAMES = [f"img/{place}.jpg:caf\u00e9" for place in range(8)]
BINARY = {
    "q0": {NAMES[3]: 1.0},
    "q1": {NAMES[0]: 1.0, NAMES[5]: 1.0},
    "q2": {NAMES[7]: 1.0},
}
GRADED = {**BINARY, "q1": {NAMES[0]: 1.0, NAMES[5]: 3.0, NAMES[6]: 2.0}, "q2": {NAMES[7]: 0.5}}
POOLS = {"q0": NAMES[2:5], "q1": NAMES[::-1], "q2": [NAMES[7], NAMES[1]]}


def task(relevant=BINARY, pools=None):
    queries = dict.fromkeys(relevant, ITEM)
    return RetrievalTask("toy", queries, dict.fromkeys(NAMES, ITEM), relevant, pools=pools)


@pytest.mark.parametrize("relevant", [BINARY, GRADED], ids=["binary", "graded"])
@pytest.mark.parametrize("pools", [None, POOLS], ids=["global", "local"])
def test_both_directions_keep_every_bit(tmp_path, relevant, pools):
    write_official(tmp_path, "toy", task(relevant, pools), QUERIES, DOCUMENTS)
    assert list_official(tmp_path) == ["toy"]
    found = read_official(tmp_path, "toy")
    assert found.queries.tobytes() == QUERIES.tobytes()
    assert found.documents.tobytes() == DOCUMENTS.tobytes()
    assert list(found.task.queries) == ["q0", "q1", "q2"]
    assert list(found.task.corpus) == NAMES
    assert found.task.relevant == relevant
    assert found.task.pools == pools
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_official(tmp_path, "toy", found.task, found.queries, found.documents)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def public_ranking(folder):
    """Labels and predictions as the public scorer makes them of the three files."""
    queries = pickle.loads((folder / "toy_qry").read_bytes())
    documents = pickle.loads((folder / "toy_tgt").read_bytes())
    infos = [json.loads(line) for line in (folder / "toy_info.jsonl").read_text().splitlines()]
    for query, info in zip(queries, infos, strict=True):
        names = info.get("cand_names", list(documents))
        scores = np.dot(query, np.stack([documents[name] for name in names]).T)
        label = info["label_name"]
        yield label if isinstance(label, list) else [label], [names[i] for i in np.argsort(-scores)]


@pytest.mark.parametrize("pools", [None, POOLS], ids=["global", "local"])
def test_a_program_like_the_public_one_finds_the_same_hits(tmp_path, pools):
    write_official(tmp_path, "toy", task(pools=pools), QUERIES, DOCUMENTS)
    hits = [ranked[0] in labels for labels, ranked in public_ranking(tmp_path)]
    card = TaskCard("toy", "image", "I-RET", "hit@1", "made up")
    result = score_retrieval(card, task(pools=pools), QUERIES, DOCUMENTS)
    assert [query.value["official"] for query in result.queries] == hits
    path = write_score(tmp_path / "scores", result, "official")
    assert path.name == "toy_score.json"
    score = json.loads(path.read_text())
    assert set(score) == {*METRICS, *COUNTS}
    assert score["hit@1"] == np.mean(hits)
    assert score["num_pred"] == score["num_data"] == 3


def test_files_of_others_have_no_query_ids_and_plain_labels(tmp_path):
    write_official(tmp_path, "toy", task(), QUERIES, DOCUMENTS)
    path = tmp_path / "toy_info.jsonl"
    infos = [{"label_name": list(labels)} for labels in BINARY.values()]
    infos[0]["label_name"] = NAMES[3]
    path.write_text("".join(json.dumps(info) + "\n" for info in infos))
    found = read_official(tmp_path, "toy")
    assert dict(found.task.relevant) == dict(zip("012", BINARY.values(), strict=True))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"label_name": "a"}] * 2, "2 lines for 3 vectors"),
        ([{"label_name": "a"}] * 2 + [{"label": "a"}], "line 3 has no label_name"),
        ([{"label_name": "a", "query_id": 1}] * 3, "query_id stands twice: '1'"),
        ([{"label_name": ["a", "b", "a"]}] * 3, "line 1: labels stand twice: 'a'"),
        ([{"label_name": ["a"], "rel_scores": [1, 2]}] * 3, "expected a number for each"),
        ([{"label_name": ["a"], "rel_scores": ["1"]}] * 3, "expected a number for each"),
        ([{"label_name": 5}] * 3, "label_name is 5; expected a list of strings"),
        ([{"label_name": "a"}] * 2 + [{"label_name": "a", "cand_names": []}], "1 of 3 lines have"),
        ([{"label_name": "a", "cand_names": "abc"}] * 3, "cand_names is 'abc'; expected a list"),
    ],
)
def test_lines_that_do_not_fit_are_refused(tmp_path, lines, message):
    write_official(tmp_path, "toy", task(), QUERIES, DOCUMENTS)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "toy_info.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        read_official(tmp_path, "toy")


def test_text_that_is_no_json_is_refused(tmp_path):
    write_official(tmp_path, "toy", task(), QUERIES, DOCUMENTS)
    (tmp_path / "toy_info.jsonl").write_text("{}x\n")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        read_official(tmp_path, "toy")


def test_a_folder_must_have_all_three_files(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="has no NAME_qry"):
            list_official(folder)
    write_official(tmp_path, "toy", task(), QUERIES, DOCUMENTS)
    (tmp_path / "toy_tgt").unlink()
    with pytest.raises(DataError, match="lacks 'toy_tgt'"):
        list_official(tmp_path)


def test_names_may_hold_what_some_take_for_the_end_of_a_line(tmp_path):
    write_official(tmp_path, "toy", task(), QUERIES, DOCUMENTS)
    path = tmp_path / "toy_info.jsonl"
    lines = [json.loads(line) | {"query_id": f"q\u2028{n}"} for n, line in
             enumerate(path.read_text().splitlines())]  # fmt: skip
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, "utf-8", newline="\n")
    assert list(read_official(tmp_path, "toy").task.queries) == ["q\u20280", "q\u20281", "q\u20282"]
    path.write_bytes(b"\xff\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_official(tmp_path, "toy")


def test_a_name_stays_in_its_folder(tmp_path):
    with pytest.raises(DataError, match="cannot be the name of a task"):
        write_official(tmp_path / "in", "../toy", task(), QUERIES, DOCUMENTS)
    assert not list(tmp_path.iterdir())
