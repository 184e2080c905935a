"""Runs from end to end: stopped, repeated, in several processes, over other data."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.baselines.stored_vectors import EncodeShard, StoredVectors
from mmembed.errors import ConfigError, DataError, StoreError
from mmembed.evaluation import runs
from mmembed.evaluation.encode_worker import EncodeSpec, EncodeWorker
from mmembed.evaluation.manifest import write_manifest
from mmembed.evaluation.preparation import prepare
from mmembed.evaluation.profiles import dump_profile, load_profile
from mmembed.evaluation.results import read_results
from mmembed.evaluation.suites import Selection
from mmembed.evaluation.vectors import verify_store
from mmembed.tasks import Profile, RetrievalTask
from tests.evaluation.fixture_suite import (
    LOADER,
    load_encoder,
    run,
    scores,
    write_data,
    write_suite,
)

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """EV-1; what is local needs no name lookup either."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    write_data(tmp_path / "data")
    return write_suite(tmp_path / "suite.yaml")


def test_a_run_scores_every_task_and_says_what_it_did(suite: Path) -> None:
    results = run(suite, "out")
    assert list(results.tasks) == ["clips", "labels", "pairs", "pictures", "words"]
    assert results.tasks["pictures"].value() == 1.0  # a picture is its own nearest
    record = results.record
    items = record["items"]
    assert items["asked"] == 20 + 30 + 2 * 4 + 2 * 8 + 2 * 8 + 2 * 2
    assert items["encoded"] == items["distinct"] == items["asked"] - 3  # the pairs repeat a side
    assert items["cached"] == 0
    for field in "version git_revision encoder space profile plan hardware wall_seconds".split():
        assert field in record
    assert set(record["seconds"]) == {"prepare", "encode", "score"}
    assert len(record["profile"]["sha256"]) == 64
    assert verify_store(suite.parent / "out" / "vectors") == (items["distinct"], [])


def test_tasks_are_added_to_a_folder_one_by_one(suite: Path) -> None:
    run(suite, "whole")
    run(suite, "parts", selection=Selection(modality=("image",)))
    results = run(suite, "parts", selection=Selection(only=("words", "pairs", "clips")))
    assert scores(results.folder) == scores(suite.parent / "whole")
    assert set(results.record["tasks"]) == set(results.tasks)


def test_results_of_two_models_or_profiles_never_share_a_folder(
    suite: Path, tmp_path: Path
) -> None:
    run(suite, "out")
    with pytest.raises(ConfigError, match=r"results of another model .*give another --out"):
        run(suite, "out", "other", loader="mmembed.evaluation.example_tasks:load_hashing_encoder")
    with pytest.raises(ConfigError, match=r"profile plain; give another --out"):
        run(suite, "out", profile="rzen")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_says_how_many_texts_were_cut(suite: Path, processes: int) -> None:
    results = run(suite, "out", processes=processes)
    assert results.record["items"]["truncated"] == 30
    assert run(suite, "out").record["items"]["truncated"] == 0  # of what it encoded itself


def test_a_model_that_does_not_count_what_it_cuts_says_so(suite: Path) -> None:
    loader = "mmembed.evaluation.example_tasks:load_hashing_encoder"
    assert run(suite, "out", loader=loader).record["items"]["truncated"] is None


def worker_of(suite: Path, store: Path) -> EncodeWorker:
    data = suite.parent / "data"
    profile = dump_profile(load_profile("plain"))
    return EncodeWorker(
        EncodeSpec(
            model="any", loader=LOADER, store=str(store), suite=str(suite), root=str(data),
            profile=profile,
        )
    )  # fmt: skip


def said_by(worker: EncodeWorker, shards: Sequence[EncodeShard], field: str) -> list[int]:
    return [(worker.encode(shard).record or {})[field] for shard in shards]


def test_a_worker_says_of_each_shard_what_was_cut_in_it(suite: Path) -> None:
    write_suite(suite, arguments={"words": 2100})
    shards = prepare(suite, suite.parent / "data", show_progress_bar=False).plan.shards()
    worker = worker_of(suite, suite.parent / "store")
    cut = said_by(worker, shards, "truncated")
    assert sum(cut) == 2100 and sorted(cut)[-2:] == [52, 2048]
    assert said_by(worker, shards, "truncated") == [0] * len(shards)


def test_a_worker_reads_no_task_whose_rows_are_there(suite: Path) -> None:
    data, store = suite.parent / "data", suite.parent / "store"
    run(suite, "out", store=store)
    shards = prepare(suite, data, show_progress_bar=False).plan.shards()
    shutil.rmtree(data / "clips")
    assert said_by(worker_of(suite, store), shards, "encoded") == [0] * len(shards)
    shutil.rmtree(store)
    with pytest.raises(FileNotFoundError):
        worker_of(suite, store).encode(shards[0])


def test_two_processes_and_one_write_the_same_scores(suite: Path) -> None:
    write_suite(suite, arguments={"words": 2100})  # several shards of text
    worded = Profile("worded", prompts={"words": "Find it:"}, num_frames=2)
    one, two = (run(suite, f"by{n}", processes=n, profile=worded) for n in (1, 2))
    assert scores(two.folder) == scores(one.folder)
    assert two.record["items"] == one.record["items"]
    assert two.record["space"] == one.record["space"]
    again = run(suite, "by2", processes=2, profile=worded)
    assert again.record["items"]["encoded"] == 0


def test_parts_that_machines_encode_are_the_whole(suite: Path) -> None:
    store = suite.parent / "store"
    counts = []
    for part in range(3):
        done = run(suite, f"part{part}", store=store, part=(part, 3))
        counts.append(done.record["items"]["encoded"])
        assert not done.tasks and not done.folder.exists()
    whole = run(suite, "whole", store=store).record["items"]
    assert all(counts) and sum(counts) == whole["distinct"] and whole["encoded"] == 0
    assert scores(suite.parent / "whole") == scores(run(suite, "alone").folder)
    with pytest.raises(ConfigError, match="part 3 of 3; parts of 3 are 0 to 2"):
        run(suite, "out", store=store, part=(3, 3))


def test_a_process_that_dies_is_replaced_and_its_shard_done_again(suite: Path) -> None:
    expected = scores(run(suite, "expected").folder)
    done = run(suite, "out", f"die:{suite.parent}", processes=2)
    assert (suite.parent / "died").exists()
    assert scores(done.folder) == expected


def test_a_shard_that_kills_every_process_ends_the_run(suite: Path) -> None:
    with pytest.raises(StoreError, match=r"shards were not encoded.*killed by signal 9"):
        only = Selection(only=("words",))
        run(suite, "out", f"stop:{suite.parent}", processes=2, selection=only)


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_process_refuses_names_item_and_file(suite: Path, processes: int) -> None:
    with pytest.raises(ValueError, match=r"(?s)cannot encode.*clips \(p3\.png\): corrupt"):
        run(suite, "out", "picky", processes=processes, selection=Selection(only=("clips",)))


def stop_after_the_first_shard(suite: Path, store: Path, how: signal.Signals) -> tuple[int, int]:
    """How many rows a run had committed when a signal ended it, and its exit code."""
    arguments = ["--suite", suite, "--model", "pause", "--loader", LOADER, "--device", "cpu"]
    arguments += ["--data-root", suite.parent / "data", "--store", store, "--out", store / "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mmembed", "eval", "run", *map(str, arguments)],
        cwd=REPOSITORY,
        stderr=subprocess.DEVNULL,
    )
    rows = 0
    while not rows:
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"it ended by itself with {process.wait(timeout=0.02)}")
        for manifest in store.glob("*/manifest.jsonl"):
            line = manifest.read_bytes().partition(b"\n")
            rows = len(json.loads(line[0])["keys"]) if line[1] else 0
    process.send_signal(how)
    return rows, process.wait()


@pytest.mark.parametrize(
    ("how", "code"),
    [
        (signal.SIGKILL, -signal.SIGKILL),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_behind_its_last_shard(
    suite: Path, how: signal.Signals, code: int
) -> None:
    """EV-35: the first shard is kept, the one in flight is done again, scores are the same."""
    expected = run(suite, "expected")
    store = suite.parent / "store"
    kept, ended = stop_after_the_first_shard(suite, store, how)
    assert ended == code
    assert not (store / "out" / "scores").exists()
    rerun = run(suite, "out", store=store)
    items = rerun.record["items"]
    assert 0 < kept < items["distinct"]
    assert (items["cached"], items["encoded"]) == (kept, items["distinct"] - kept)
    assert scores(rerun.folder) == scores(expected.folder)


def test_renamed_files_are_found_again(suite: Path) -> None:
    store = suite.parent / "store"
    run(suite, "first", store=store)
    for path in sorted((suite.parent / "data" / "pictures").iterdir()):
        path.rename(path.with_name(f"renamed-{path.name}"))
    only = Selection(only=("pictures",))
    assert run(suite, "second", store=store, selection=only).record["items"]["encoded"] == 0


def test_other_data_than_those_prepared_are_refused(suite: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    prepared = prepare(suite, data, show_progress_bar=False)
    write_manifest(tmp_path / "plan", prepared.manifest)
    counts = prepared.manifest["tasks"]
    assert counts["pictures"]["images"] == counts["labels"]["images"] == 8
    assert counts["clips"]["frames"] == 8
    assert run(suite, "out", plan=tmp_path / "plan").record["plan"]["verified"]
    os.utime(data / "pictures" / "p0.png")  # its date says nothing about its content
    run(suite, "out", plan=tmp_path / "plan")
    (data / "pictures" / "p0.png").write_bytes((data / "pictures" / "p1.png").read_bytes())
    with pytest.raises(DataError, match=r"(?s)labels has changed .contents of items"):
        run(suite, "out", plan=tmp_path / "plan")
    (data / "pictures" / "p0.png").unlink()
    with pytest.raises(DataError, match="candidates 8 -> 7"):
        run(suite, "out", plan=tmp_path / "plan")
    with pytest.raises(DataError, match=r"another profile .rzen instead of plain"):
        run(suite, "other", plan=tmp_path / "plan", profile="rzen")


def test_missing_files_make_a_score_partial_when_that_is_allowed(suite: Path) -> None:
    (suite.parent / "data" / "expected.txt").write_text("gone.png")
    with pytest.raises(DataError, match=r"pictures/gone\.png"):
        run(suite, "out")
    results = run(suite, "out", allow_missing=True)
    assert {n for n, result in results.tasks.items() if result.is_partial} == {"pictures", "labels"}
    assert results.tasks["labels"].missing == ("pictures/gone.png",)


def test_tasks_of_which_nothing_is_left_are_refused_by_name(suite: Path) -> None:
    data = suite.parent / "data"
    for path in (data / "pictures").iterdir():
        path.unlink()
    (data / "expected.txt").write_text("p0.png")
    with pytest.raises(DataError, match="nothing is left of pictures, labels") as caught:
        run(suite, "out", allow_missing=True)
    assert caught.value.missing == ("pictures/p0.png",)
    text = Selection(modality=("text",))
    assert len(run(suite, "out", allow_missing=True, selection=text).tasks) == 2


def test_partial_and_whole_tasks_of_one_folder_come_back(suite: Path) -> None:
    (suite.parent / "data" / "expected.txt").write_text("gone.png")
    run(suite, "out", allow_missing=True, selection=Selection(only=("pictures",)))
    results = run(suite, "out", selection=Selection(only=("words",)))
    assert {name: entry["missing"] for name, entry in results.record["tasks"].items()} == {
        "pictures": 1, "words": 0,
    }  # fmt: skip
    assert len(list(runs.stored_tasks(results.folder, suite=results.record["suite"]))) == 2


def test_the_tasks_of_a_run_come_back_with_their_rows(suite: Path) -> None:
    results = run(suite, "out")
    found = {
        card.name: (task, q, d)
        for card, task, q, d in runs.stored_tasks(results.folder, suite=results.record["suite"])
    }
    assert found.keys() == results.tasks.keys()
    loaded, queries, documents = found["words"]
    assert isinstance(loaded.task, RetrievalTask)
    encoder = load_encoder("hashing")
    expected = encoder.encode(list(loaded.task.corpus.values()), role="document")
    assert np.array_equal(documents, expected)
    assert len(queries) == len(loaded.task.queries)
    (only,) = runs.stored_tasks(results.folder, suite=results.record["suite"], only=["pairs"])
    assert only[0].name == "pairs" and len(only[2]) == len(only[3]) == 4
    write_suite(suite, arguments={"words": 31})
    with pytest.raises(DataError, match="data of words are not those of the run"):
        list(runs.stored_tasks(results.folder, suite=results.record["suite"], only=["words"]))


def test_evaluate_gives_the_results_of_a_run_without_files(suite: Path) -> None:
    results = run(suite, "out")
    prepared = prepare(suite, suite.parent / "data", show_progress_bar=False)
    advanced: list[int] = []
    found = runs.evaluate(
        prepared.tasks, StoredVectors(load_encoder("hashing")), on_progress=advanced.append
    )
    assert {name: result.metrics for name, result in found.items()} == {
        name: result.metrics for name, result in results.tasks.items()
    }
    assert sum(advanced) == results.record["items"]["distinct"]


def test_a_nano_suite_is_labelled_in_its_results(suite: Path) -> None:
    write_suite(suite, subset={"queries": 3, "documents": 6})
    results = run(suite, "out")
    assert results.record["subset"] == {"queries": 3, "documents": 6}
    assert results.record["calibration"] == "uncalibrated"
    assert {result.num_queries for result in results.tasks.values()} == {3, 2}
    assert all(result.card.note.startswith("subset: ") for result in results.tasks.values())
    assert len(list(runs.stored_tasks(results.folder, suite=results.record["suite"]))) == 5


def check_a_real_model(suite: Path, model: Path, processes: int) -> None:
    options = {"loader": runs.LOADER, "store": suite.parent / "store"}
    one = run(suite, "one", str(model), **options)
    again = run(suite, "again", str(model), **options)
    assert again.record["items"]["encoded"] == 0
    options["store"] = suite.parent / "other"
    several = run(suite, "several", str(model), processes=processes, **options)
    assert several.record["items"]["encoded"] == one.record["items"]["distinct"]
    assert scores(one.folder) == scores(again.folder) == scores(several.folder)
    assert "weights" in one.record["encoder"] or "fingerprint" in one.record["encoder"]


def test_a_model_of_ours_runs_from_its_folder(suite: Path, tiny_checkpoint: Path) -> None:
    results = run(suite, "one", str(tiny_checkpoint), loader=runs.LOADER)
    assert results.tasks["pictures"].metrics["official"]["hit@10"] == 1.0
    again = run(suite, "one", str(tiny_checkpoint), loader=runs.LOADER, again=True)
    assert again.record["items"]["encoded"] == 0


@pytest.mark.slow
def test_one_process_and_four_write_the_same_scores_of_a_model(
    suite: Path, tiny_checkpoint: Path
) -> None:
    """EV-36, EV-38."""
    write_suite(suite, arguments={"words": 2100})
    check_a_real_model(suite, tiny_checkpoint, 4)


def test_a_run_without_a_record_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no run\.json"):
        list(runs.stored_tasks(tmp_path))
    with pytest.raises(DataError, match="has no results"):
        read_results(tmp_path)
