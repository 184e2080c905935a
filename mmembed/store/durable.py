"""Files that survive a crash: atomic replacement, checked JSON records, one writer at a time.

Under `vectors.py`, the search index and the checkpoints of training. A record is a JSON object on
one line with its format and a checksum of itself, so that one flipped byte anywhere is found when
it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmembed.errors import StoreError

__all__ = [
    "dump_record",
    "lock_folder",
    "parse_record",
    "read_record",
    "sync_folder",
    "write_atomically",
]


def dump_record(record: Mapping[str, Any]) -> bytes:
    """One line of ASCII JSON with sorted keys and `check`, without the newline."""
    return _canonical({**record, "check": hashlib.sha256(_canonical(record)).hexdigest()})


def parse_record(line: bytes) -> dict[str, Any] | None:
    """The record of a line that `dump_record` wrote; None when a single byte differs."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    record.pop("check", None)
    return record if dump_record(record) == line else None


def read_record(path: Path, expected_format: str) -> dict[str, Any]:
    """The record that is alone in a file.

    Raises:
        StoreError: missing, damaged, or of another format.
    """
    try:
        payload = path.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path} is missing") from None
    record = parse_record(payload.removesuffix(b"\n"))
    if record is None or not payload.endswith(b"\n"):
        raise StoreError(f"{path} is damaged; restore it, or delete {path.parent} and start again")
    if record.get("format") != expected_format:
        raise StoreError(
            f"{path} has format {record.get('format')!r}; this version of mmembed reads "
            f"{expected_format!r}"
        )
    return record


def write_atomically(path: Path, payload: bytes) -> None:
    """Write beside, flush to disk, rename: readers see the old file or the new one, whole."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextlib.contextmanager
def lock_folder(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold the exclusive write lock of a folder; the kernel frees it when the process dies.

    Raises:
        StoreError: `wait` is False and another process holds it.
    """
    with (folder / ".lock").open("a+b") as file:
        try:
            _lock_file(file.fileno(), wait=wait)
        except BlockingIOError:
            raise StoreError(
                f"another process is writing to {folder}; wait for it or use another folder"
            ) from None
        yield  # closing the file frees the lock


def _lock_file(descriptor: int, *, wait: bool) -> None:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def sync_folder(folder: Path) -> None:
    """Make a rename durable. Windows cannot open folders and does not need it."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode("ascii")
