"""Hashes of files that are remembered: found again, never wrongly, by several processes at once."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mmembed.errors import InputError
from mmembed.store.file_hashes import FileHashes

LONG_AGO = 1_600_000_000


def write(path: Path, payload: bytes, seconds: int = LONG_AGO) -> str:
    path.write_bytes(payload)
    os.utime(path, (seconds, seconds))
    return hashlib.sha256(payload).hexdigest()


def test_a_file_is_read_once_for_all_processes_to_come(tmp_path: Path) -> None:
    digest = write(tmp_path / "a", b"content")
    for expected_reads in (1, 0):
        with FileHashes(tmp_path / "hashes.sqlite") as hashes:
            assert hashes(tmp_path / "a") == digest
            assert hashes(tmp_path / "a") == digest
            assert hashes.num_read == expected_reads


@pytest.mark.parametrize("payload, seconds", [(b"CONTENT", LONG_AGO + 1), (b"longer!!", LONG_AGO)])
def test_another_date_or_size_is_read_again(tmp_path: Path, payload: bytes, seconds: int) -> None:
    write(tmp_path / "a", b"content")
    with FileHashes(tmp_path / "hashes.sqlite") as hashes:
        hashes(tmp_path / "a")
    digest = write(tmp_path / "a", payload, seconds)
    with FileHashes(tmp_path / "hashes.sqlite") as hashes:
        assert hashes(tmp_path / "a") == digest


def test_a_file_that_may_still_change_within_its_date_is_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    status = (tmp_path / "a").stat()
    with FileHashes(tmp_path / "hashes.sqlite") as hashes:
        hashes(tmp_path / "a")
        (tmp_path / "a").write_bytes(b"two")
        os.utime(tmp_path / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
        assert hashes(tmp_path / "a") == hashlib.sha256(b"two").hexdigest()


def test_a_damaged_database_changes_no_hash(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digest = write(tmp_path / "a", b"content")
    (tmp_path / "hashes.sqlite").write_bytes(b"this is no database" * 100)
    with FileHashes(tmp_path / "hashes.sqlite") as hashes:
        assert hashes(tmp_path / "a") == digest
    assert "not remembered" in caplog.text


def test_an_entry_that_is_no_hash_is_read_again(tmp_path: Path) -> None:
    digest = write(tmp_path / "a", b"content")
    with FileHashes(tmp_path / "hashes.sqlite") as hashes:
        hashes(tmp_path / "a")
    with closing(sqlite3.connect(tmp_path / "hashes.sqlite")) as database, database:
        assert database.execute("UPDATE files SET sha256 = 'f'").rowcount == 1
    with FileHashes(tmp_path / "hashes.sqlite") as hashes:
        assert hashes(tmp_path / "a") == digest


def test_files_that_cannot_be_read_raise_when_they_are_asked_for(tmp_path: Path) -> None:
    digest = write(tmp_path / "a", b"content")
    advanced: list[int] = []
    with FileHashes() as hashes:
        hashes.read_all([tmp_path / "a", tmp_path / "gone"], on_progress=advanced.append)
        assert hashes.num_read == 1 and sum(advanced) == 2
        assert hashes(tmp_path / "a") == digest and hashes.num_read == 1
        with pytest.raises(InputError, match="not_found"):
            hashes(tmp_path / "gone")


def test_several_processes_write_at_once_and_one_that_is_killed_harms_none(tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path / f"f{number}", f"file {number}".encode())
    script = (
        "import sys, os, signal; from pathlib import Path\n"
        "from mmembed.store import file_hashes\n"
        "file_hashes._PENDING = 3\n"
        "folder = Path(sys.argv[1])\n"
        "hashes = file_hashes.FileHashes(folder / 'hashes.sqlite')\n"
        "for number in range(40): hashes(folder / f'f{number}')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in started] == [-9] * 3
    with FileHashes(tmp_path / "hashes.sqlite") as hashes:
        for number in range(40):
            expected = hashlib.sha256(f"file {number}".encode()).hexdigest()
            assert hashes(tmp_path / f"f{number}") == expected
        assert hashes.num_read < 3  # what was not committed yet
