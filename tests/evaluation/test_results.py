"""The files of a run: names that stay in their folder, damage that is said, runs that go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmembed.errors import DataError
from mmembed.evaluation.results import (
    TIES,
    file_stem,
    read_results,
    write_run_record,
    write_task_result,
)
from tests.evaluation.made_up_runs import result, run

BAD_NAMES = ["", ".", "..", ".a", "a/b", "../a", "a\\b", "c:a", "a\0", "a\n", "a.", " a", "NUL",
             "com1.x", "\ud800", "x" * 201, "\u00e9" * 101]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_cannot_be_that_of_a_file_is_refused(name: str, tmp_path: Path):
    with pytest.raises(DataError, match="cannot be the name of a task"):
        write_task_result(tmp_path / "out", result(name, [1.0]))
    assert not list(tmp_path.iterdir())


def test_common_names_are_names_of_files(tmp_path: Path):
    for name in ("ImageNet-1K", "MSCOCO_i2t", "a b", "\u540d\u524d", "a.b", "console"):
        assert file_stem(name) == name
    written = run(tmp_path, result("\u540d\u524d", [1.0, 0.0]))
    assert written.tasks["\u540d\u524d"].value() == 0.5


def test_ids_of_any_letters_come_back(tmp_path: Path):
    ids = ["\ud800", "\u2028", "a\nb", "\u540d", "\x00"]
    written = run(tmp_path, result("a", [1.0] * 5, ids=ids))
    assert [query.id for query in written.tasks["a"].queries] == ids


def damage(path: Path, **fields) -> None:
    """Replace keys of the first line; None takes one away."""
    first, *others = (
        path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    )
    record = {**json.loads(first), **fields}
    kept = {key: value for key, value in record.items() if value is not None}
    path.write_text("\n".join([json.dumps(kept), *others]) + "\n")


@pytest.mark.parametrize(
    ("file", "fields", "said"),
    [
        ("scores/a.json", {"format": "x"}, "no result file of this version"),
        ("scores/a.json", {"card": None}, "it has no 'card'"),
        ("scores/a.json", {"card": "x"}, "damaged"),
        ("scores/a.json", {"metrics": []}, "damaged"),
        ("scores/a.json", {"metrics": {"official": {"hit@1": 1.0}}}, "it has no 'pessimistic'"),
        ("scores/a.json", {"metrics": {ties: {} for ties in TIES}},
         "hit@1 under pessimistic is nan"),
        ("queries/a.jsonl", {"top": None}, "line 1 is damaged: it has no 'top'"),
        ("queries/a.jsonl", {"value": {"official": 1.0}}, "it has no 'pessimistic'"),
        ("queries/a.jsonl", {"value": dict.fromkeys(TIES, "1")},
         "is '1', no number"),
        ("queries/a.jsonl", {"target": float("nan")}, "target is nan"),
    ],
)  # fmt: skip
def test_damage_is_an_error_that_names_the_file(tmp_path: Path, file: str, fields, said: str):
    run(tmp_path, result("a", [1.0, 0.0]))
    damage(tmp_path / file, **fields)
    with pytest.raises(DataError, match=said) as caught:
        read_results(tmp_path, with_queries=True)
    assert file in str(caught.value)


@pytest.mark.parametrize("file", ["scores/a.json", "queries/a.jsonl", "run.json"])
def test_bytes_that_are_no_text_are_an_error_too(tmp_path: Path, file: str):
    run(tmp_path, result("a", [1.0]), model="m")
    (tmp_path / file).write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        read_results(tmp_path, with_queries=True)


def test_a_renamed_file_is_not_taken_for_another_task(tmp_path: Path):
    run(tmp_path, result("a", [1.0]))
    (tmp_path / "scores" / "a.json").rename(tmp_path / "scores" / "b.json")
    with pytest.raises(DataError, match="holds the result of 'a'"):
        read_results(tmp_path)


def test_scores_that_the_record_does_not_know_are_kept_apart(tmp_path: Path):
    run(tmp_path, *(result(name, [1.0]) for name in "abc"))
    write_run_record(tmp_path, {"tasks": {"a": {"files": "0" * 64}, "b": {"files": None}, "d": {}}})
    found = read_results(tmp_path)
    assert (list(found.tasks), found.unrecorded) == (["a"], ("b", "c"))
    write_run_record(
        tmp_path, {"tasks": {"a": {"sha256": "0"}}}
    )  # a record without hashes of files
    assert list(read_results(tmp_path).tasks) == ["a"]
