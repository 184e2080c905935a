"""The list of failures beside an index, and whether an index has a place for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmembed.search.error_list import local_folder, read_errors, update_errors
from mmembed.search.summary import Failure


def test_a_run_replaces_the_failures_of_its_own_folder(tmp_path: Path) -> None:
    path = tmp_path / "errors.jsonl"

    def failure(name: str) -> Failure:
        return Failure(name, name, "corrupt", "caf\u00e9")

    update_errors(path, Path("/a"), [failure("/a/1"), failure("/a/2")])
    update_errors(path, Path("/ab"), [failure("/ab/3")])
    update_errors(path, Path("/a"), [failure("/a/2")])
    assert read_errors(path) == [failure("/ab/3"), failure("/a/2")]
    path.write_text("half a li")
    assert read_errors(path) == []
    assert read_errors(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("numpy:a/b", "a/b"),
        ("lance:/x y", "/x y"),
        ("qdrant:local", None),
        ("plain", "plain"),
        ("./odd:name", "./odd:name"),
        ("memory:", None),
        ("s3://bucket/x", None),
        ("qdrant://host:6333/x", None),
    ],
)
def test_only_an_index_on_this_machine_has_a_folder(uri: str, folder: str | None) -> None:
    assert local_folder(uri) == (None if folder is None else Path(folder))
