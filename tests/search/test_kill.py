"""A writer that is killed at every moment at which something reaches the disk."""

from __future__ import annotations

import inspect
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmembed.search.exact_index import ExactIndex
from mmembed.search.rows import Row
from mmembed.store.vectors import EmbeddingStore

KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from mmembed.search.exact_index import ExactIndex
from mmembed.search.rows import Row

countdown = int(sys.argv[2])
flush = os.fsync

def kill_or_flush(descriptor):
    global countdown
    countdown -= 1
    if countdown == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(descriptor)

os.fsync = kill_or_flush
"""


def write(folder: Path) -> None:
    """Two batches of three rows, each committed."""
    index = ExactIndex(folder, fingerprint="a" * 64, dimension=4)
    with index.writing():
        for batch in range(2):
            names = [str(number) for number in range(3 * batch, 3 * batch + 3)]
            rows = [Row(id=n, path=f"/{n}", kind="image", key=n.zfill(64)) for n in names]
            index.upsert(rows, np.eye(4, dtype=np.float32)[:3] * (1 - 2 * batch))
            index.commit()


def write_and_die(folder: Path, kill_at: int) -> int:
    script = f"{KILLED_WRITER}\n{inspect.getsource(write)}\nwrite(Path(sys.argv[1]))"
    return subprocess.run([sys.executable, "-c", script, str(folder), str(kill_at)]).returncode


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock" and not path.name.startswith(".tmp-")
    }


@pytest.mark.skipif(sys.platform == "win32", reason="kills itself with a POSIX signal")
def test_a_killed_writer_leaves_a_valid_index_and_the_next_one_ends_where_none_was_killed(
    tmp_path: Path,
) -> None:
    write(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    kills = 0
    while True:
        folder = tmp_path / f"killed{kills + 1}"
        code = write_and_die(folder, kills + 1)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        if (folder / "index.json").exists():
            committed = [row.id for row in ExactIndex(folder).rows()]
            assert committed in ([], ["0", "1", "2"], ["0", "1", "2", "3", "4", "5"])
            vectors = EmbeddingStore(folder / "vectors").verify()
            assert not vectors or "a write that was cut" in vectors[0]
        write(folder)
        assert contents(folder) == whole, f"killed at {kills}"
    assert kills >= 12
