"""mteb's data from folders: loaded, verified, and refused where something is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmembed.errors import ConfigError, DataError
from mmembed.evaluation.mteb_runs.fetch import Snapshot, fetch, plan_fetch
from mmembed.evaluation.mteb_runs.localize import (
    DataMap,
    LocalData,
    folder_sha256,
    localize,
    offline,
    read_map,
)
from mmembed.evaluation.mteb_runs.model import mteb_model
from mmembed.evaluation.mteb_runs.running import run_tasks
from tests.evaluation.mteb_runs.conftest import CountingEncoder
from tests.evaluation.mteb_runs.mteb_data import FolderTask, text_task, write_snapshot

KEY = "test/folder-task@abc123"


def data_map(root: Path, **fields: Any) -> DataMap:
    return DataMap(root, {KEY: LocalData(folder="data", **fields)})


def test_a_folder_of_parquet_files_runs_offline_and_encodes_once(
    encoder: CountingEncoder, tmp_path: Path
) -> None:
    write_snapshot(tmp_path / "data")
    checked = data_map(tmp_path, sha256=folder_sha256(tmp_path / "data"))
    plain = FolderTask()
    (task,) = localize([plain], checked)
    with offline():
        (score,) = run_tasks(mteb_model(encoder), [task], tmp_path / "out", stop_on_error=True)
    assert score.value is not None and len(encoder.items) == 8
    assert plain.metadata.dataset["path"] == "test/folder-task"
    path = next((tmp_path / "out").rglob("LocalFolder.json"))
    assert json.loads(path.read_text())["dataset_revision"] == "abc123"


def test_pools_of_a_snapshot_are_seen(encoder: CountingEncoder, tmp_path: Path) -> None:
    write_snapshot(tmp_path / "data", top_ranked=True, instruction=True)
    (task,) = localize([FolderTask()], data_map(tmp_path, has=("top_ranked", "instruction")))
    with offline():
        task.load_data()
    split = task.dataset["default"]["test"]
    assert split["top_ranked"]["q1"] == ["d1", "d2", "d3"]
    assert split["queries"]["instruction"] == ["one", "two", "three"]


@pytest.mark.parametrize("extra", ["top_ranked", "instruction"])
def test_a_snapshot_without_what_the_map_promises_is_refused(extra: Any, tmp_path: Path) -> None:
    write_snapshot(tmp_path / "data")
    (task,) = localize([FolderTask()], data_map(tmp_path, has=(extra,)))
    with offline(), pytest.raises(DataError, match=f"should have {extra}") as caught:
        task.load_data()
    assert "default/test" in str(caught.value)


def test_changed_files_are_refused(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "data")
    checked = data_map(tmp_path, sha256=folder_sha256(tmp_path / "data"))
    localize([FolderTask()], checked)
    with (tmp_path / "data" / "README.md").open("a") as file:
        file.write("more\n")
    with pytest.raises(DataError, match="sha256"):
        localize([FolderTask()], checked)


def test_a_hash_of_a_folder_names_paths_and_content_and_no_download_files(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "data")
    found = folder_sha256(tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    (tmp_path / "copy" / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / "copy" / ".cache" / "huggingface" / "lock").write_text("x")
    assert folder_sha256(tmp_path / "copy") == found
    (tmp_path / "copy" / "README.md").rename(tmp_path / "copy" / "README")
    assert folder_sha256(tmp_path / "copy") != found


def test_data_sets_that_the_map_lacks_are_all_listed(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        localize([FolderTask(), text_task()], DataMap(tmp_path, {}))
    assert KEY in str(caught.value) and "nowhere/at-all@1" in str(caught.value)
    with pytest.raises(DataError, match="is no folder"):
        localize([FolderTask()], data_map(tmp_path))


def test_offline_refuses_look_ups_and_leaves_no_trace(attempts: list[str]) -> None:
    import datasets
    import huggingface_hub

    with offline():
        assert huggingface_hub.constants.is_offline_mode()
        with pytest.raises((ConnectionError, OSError)):
            datasets.load_dataset("test/folder-task")
    assert not huggingface_hub.constants.is_offline_mode()
    assert not datasets.config.HF_HUB_OFFLINE
    assert not attempts


def test_an_aggregate_is_localized_in_its_parts(tmp_path: Path) -> None:
    import mteb

    plain = mteb.get_task("CQADupstackRetrieval")
    entries = {}
    for snapshot in plan_fetch([plain]):
        (tmp_path / snapshot.folder).mkdir(parents=True)
        entries[snapshot.key] = LocalData(folder=snapshot.folder)
    (task,) = localize([plain], DataMap(tmp_path, entries))
    assert len(task.metadata.tasks) == len(plain.metadata.tasks) == 12
    for part in task.metadata.tasks:
        assert str(tmp_path) in part.metadata.dataset["path"]
        assert task.taskname_to_task[part.metadata.name] is part
    assert not any(str(tmp_path) in part.metadata.dataset["path"] for part in plain.metadata.tasks)


def test_fetch_fills_a_map_that_localize_reads(encoder: CountingEncoder, tmp_path: Path) -> None:
    """With a function that copies instead of downloading: no network is reached here."""
    asked: list[str] = []

    def download(snapshot: Snapshot, folder: Path) -> None:
        asked.append(snapshot.key)
        shutil.rmtree(folder)
        write_snapshot(folder, top_ranked=True)

    plan = plan_fetch([FolderTask(), FolderTask()])
    assert [(each.key, each.tasks) for each in plan] == [(KEY, ("LocalFolder",))]
    path = fetch(plan, tmp_path / "data", download=download)
    data = read_map(path)
    assert data.entries[KEY].has == ("top_ranked",)
    (task,) = localize([FolderTask()], data)
    with offline():
        (score,) = run_tasks(mteb_model(encoder), [task], tmp_path / "out", stop_on_error=True)
    assert score.value is not None
    fetch(plan, tmp_path / "data", download=download)
    assert asked == [KEY]


def test_a_fetch_that_is_cut_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    plan = [Snapshot(f"test/data-{number}", "1", ("Some",)) for number in range(3)]
    asked: list[str] = []

    def download(snapshot: Snapshot, folder: Path) -> None:
        asked.append(snapshot.repo)
        if len(asked) == 2:
            raise OSError("the network is gone")
        (folder / "data.txt").write_text(snapshot.key)

    with pytest.raises(OSError, match="gone"):
        fetch(plan, tmp_path, download=download)
    assert list(read_map(tmp_path / "map.json").entries) == ["test/data-0@1"]
    path = fetch(plan, tmp_path, download=download)
    assert asked == ["test/data-0", "test/data-1", "test/data-1", "test/data-2"]
    assert len(read_map(path).entries) == 3


def test_a_download_of_nothing_is_refused(tmp_path: Path) -> None:
    plan = [Snapshot("test/data", "1", ("Some",))]
    with pytest.raises(DataError, match="nothing was downloaded"):
        fetch(plan, tmp_path, download=lambda snapshot, folder: None)
    with pytest.raises(DataError, match="no repository"):
        (task,) = localize([FolderTask()], _anywhere(tmp_path))
        plan_fetch([task])


def _anywhere(tmp_path: Path) -> DataMap:
    write_snapshot(tmp_path / "other" / "data")
    return data_map(tmp_path / "other")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, DataError, "mmembed eval fetch"),
        ("{", DataError, "not JSON"),
        ("[]", DataError, "no JSON object"),
        ('{"a@1": {"folders": "x"}}', ConfigError, "folder"),
        ('{"a@1": {"folder": "x", "has": ["pools"]}}', ConfigError, "top_ranked"),
    ],
)
def test_a_wrong_map_is_refused(
    content: str | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "map.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=message):
        read_map(path)
