"""A program that kills a migration at every moment at which something reaches or leaves the disk.

It forks: each child migrates a copy of FOLDER/whole and is killed at its n-th flush or removal.
Whatever is then in use must be whole, and a second run must end well. Prints how many kills there
were, and after how many of them the new index was in use.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmembed.search.migration import migrate_index
from mmembed.search.opening import open_index
from tests.search.test_migration import new_model


def run_and_die(folder: Path, kill_at: int, remove_old: bool) -> bool:
    """Whether the child was killed before it was done."""
    child = os.fork()
    if child == 0:
        countdown = kill_at

        def killing(call: Callable[..., Any]) -> Callable[..., Any]:
            def kill_or_call(*arguments: Any, **options: Any) -> Any:
                nonlocal countdown
                countdown -= 1
                if countdown == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **options)

            return kill_or_call

        os.fsync, os.unlink, os.rmdir = map(killing, (os.fsync, os.unlink, os.rmdir))
        options: dict[str, Any] = {"batch_items": 2, "commit_seconds": 0.0}
        migrate_index(folder, embedder=new_model(), remove_old=remove_old, **options)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)


def main(folder: Path, remove_old: bool) -> None:
    whole, killed = folder / "whole", folder / "killed"
    ids = [row.id for row in open_index(whole).rows()]
    kills = switched = 0
    is_killed = True
    while is_killed:
        shutil.rmtree(killed, ignore_errors=True)
        shutil.copytree(whole, killed)
        is_killed = run_and_die(killed, kills + 1, remove_old)
        index = open_index(killed)
        assert [row.id for row in index.rows()] == ids, kills
        assert index.vectors(ids).shape == (len(ids), index.dimension)
        is_new = index.fingerprint == new_model().fingerprint
        kills += is_killed
        switched += is_killed and is_new
        assert is_killed or is_new
        if not is_new:
            assert not migrate_index(killed, embedder=new_model()).failures
            assert open_index(killed).fingerprint == new_model().fingerprint
    sys.stdout.write(f"{kills} {switched}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "remove")
