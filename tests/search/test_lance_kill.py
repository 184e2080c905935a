"""Writers of a Lance index that are killed, and several that write at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lancedb")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")

REPOSITORY = Path(__file__).resolve().parents[2]


def run(folder: Path, mode: str, count: int, seed: int) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.search.killed_lance", mode, folder, str(count), str(seed)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [{**line, "stderr": done.stderr[-3000:]} for line in lines]


def all_are_whole(kills: list[dict[str, Any]]) -> bool:
    for number, kill in enumerate(kills):
        assert kill["whole"] and kill["finished"], (number, kill)
    return any(kill["killed"] for kill in kills)


@pytest.mark.parametrize("mode", ["commit", "optimize"])
def test_a_killed_writer_loses_no_acknowledged_row_and_leaves_whole_commits(
    tmp_path: Path, mode: str
) -> None:
    assert all_are_whole(run(tmp_path, mode, 3, 0)), "nobody was killed"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["commit", "optimize"])
def test_a_writer_may_be_killed_at_any_moment(tmp_path: Path, mode: str) -> None:
    kills = run(tmp_path, mode, 40, 1)
    assert all_are_whole(kills)
    assert sum(kill["killed"] for kill in kills) > 20
    if mode == "commit":
        assert len({kill["acknowledged"] for kill in kills}) >= 5


def test_writers_of_the_same_ids_make_no_duplicates_while_another_optimizes(
    tmp_path: Path,
) -> None:
    (result,) = run(tmp_path, "together", 2, 0)
    assert result["ended"] == [0, 0, 0] and result["whole"], result["stderr"]


def test_readers_see_whole_commits_only_while_others_write_and_optimize(tmp_path: Path) -> None:
    *seen, result = run(tmp_path, "read", 2, 0)
    assert result["ended"] == [0, 0, 0], result["stderr"]
    assert max(reader["seen"] for reader in seen) >= 3


@pytest.mark.slow
def test_many_writers_of_the_same_ids_make_no_duplicates(tmp_path: Path) -> None:
    (result,) = run(tmp_path, "together", 6, 0)
    assert result["ended"] == [0] * 7 and result["whole"], result["stderr"]
