"""Which scores of a folder count again: those that were made from equal rows by equal code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from mmembed.errors import ConfigError, DataError, StoreError
from mmembed.evaluation.suites import Selection
from mmembed.store.durable import lock_folder
from tests.evaluation.fixture_suite import run, scores, write_data, write_suite


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    write_data(tmp_path / "data")
    return write_suite(tmp_path / "suite.yaml")


def test_a_second_run_encodes_nothing_and_ends_with_the_same_bytes(suite: Path) -> None:
    store = suite.parent / "store"
    first = run(suite, "first", store=store)
    before = scores(first.folder)
    assert run(suite, "second", store=store).record["items"]["encoded"] == 0
    assert scores(suite.parent / "second") == before
    for name in ("scores/words.json", "queries/labels.jsonl"):
        (first.folder / name).write_text("spoiled")
        with pytest.raises(ConfigError, match="not what its run wrote"):
            run(suite, "first", store=store, selection=Selection(only=("clips",)))
        kept = (first.folder / "scores" / "clips.json").stat().st_mtime_ns
        run(suite, "first", store=store)
        assert scores(first.folder) == before
        assert (first.folder / "scores" / "clips.json").stat().st_mtime_ns == kept
    run(suite, "first", store=store, again=True)
    assert scores(first.folder) == before
    assert (first.folder / "scores" / "clips.json").stat().st_mtime_ns != kept


def stop_while_scoring(suite: Path, out: str, task: str, **options: Any) -> None:
    """As a full disk would, after the tasks before this one."""
    lines = suite.parent / out / "queries" / f"{task}.jsonl"
    lines.unlink(missing_ok=True)
    lines.mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        run(suite, out, again=True, **options)
    lines.rmdir()


@pytest.mark.parametrize("task", ["words", "pictures"])
def test_scores_of_a_stopped_run_never_count_for_another_model(suite: Path, task: str) -> None:
    expected = scores(run(suite, "expected").folder)
    stop_while_scoring(suite, "out", task)
    with pytest.raises(ConfigError, match="results of another model"):
        run(suite, "out", "other", loader="mmembed.evaluation.example_tasks:load_hashing_encoder")
    only = run(suite, "out", selection=Selection(only=("clips",)))
    before = () if task == "words" else ("words", "pairs")
    assert set(only.tasks) == set(only.record["tasks"]) == {*before, "clips"}
    assert scores(run(suite, "out").folder) == expected


def test_the_score_that_was_about_to_be_replaced_is_gone_and_the_others_stay(suite: Path) -> None:
    expected = scores(run(suite, "out").folder)
    stop_while_scoring(suite, "out", "pictures")
    only = run(suite, "out", selection=Selection(only=("clips",)))
    assert set(only.tasks) == {"words", "pairs", "labels", "clips"}
    assert scores(run(suite, "out").folder) == expected


def test_scores_of_data_that_came_and_went_are_made_again(suite: Path) -> None:
    expected = scores(run(suite, "out").folder)
    write_suite(suite, arguments={"words": 21})
    stop_while_scoring(suite, "out", "pairs")
    assert scores(suite.parent / "out") != expected
    write_suite(suite)
    assert scores(run(suite, "out").folder) == expected


def test_scores_of_another_scorer_are_made_again(suite: Path) -> None:
    folder = run(suite, "out").folder
    record = json.loads((folder / "run.json").read_text())
    expected = scores(folder)["words.json"]
    path = folder / "scores" / "words.json"
    path.write_bytes(expected.replace(b'"tie_affected": 0', b'"tie_affected": 1'))
    both = [hashlib.sha256(each.read_bytes()) for each in (path, folder / "queries/words.jsonl")]
    entry = record["tasks"]["words"]
    entry["files"] = hashlib.sha256(b"".join(each.digest() for each in both)).hexdigest()
    for scorer in (entry["scorer"], "another"):
        entry["scorer"] = scorer
        (folder / "run.json").write_text(json.dumps(record))
        found = scores(run(suite, "out").folder)["words.json"]
        assert (found == expected) == (scorer == "another")


def test_scores_that_no_record_speaks_of_are_refused(suite: Path) -> None:
    folder = run(suite, "out").folder
    (folder / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"clips\.json.*give another --out"):
        run(suite, "out")
    (folder / "run.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        run(suite, "out")


def test_two_runs_never_write_one_folder_at_a_time(suite: Path) -> None:
    folder = run(suite, "out").folder
    with lock_folder(folder, wait=False), pytest.raises(StoreError, match="another process"):
        run(suite, "out")
