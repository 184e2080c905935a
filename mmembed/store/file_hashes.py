"""Hashes of files that were read before, so that a data set is not read again to be named.

Gives `content.content_key` its digest. A hash is found under path, size and date of the file in
one database, which several processes use at once and which survives a crash. It only ever holds
what can be computed again.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmembed.errors import InputError
from mmembed.store.content import hash_file

__all__ = ["FileHashes"]

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 60.0
_PENDING = 512
# A file that was written within the resolution of dates may change without getting another one.
_SETTLED_NS = 2_000_000_000
_THREADS = 8
_DIGEST = re.compile(r"[0-9a-f]{64}")


class FileHashes:
    """sha256 of files by path, size and date; a `Digest`. Close it, or use it in a `with`.

    Args:
        path: of the database, created when it is missing; None remembers in memory only. Where it
            cannot be used, or is damaged, everything is read again.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.num_read = 0
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int, int], str] = {}
        self._pending: list[tuple[str, int, int, str]] = []
        self._database: sqlite3.Connection | None = None
        if path is not None:
            self._database = _opened(path)

    def __enter__(self) -> FileHashes:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Commit what is new; the object stays usable, in memory."""
        with self._lock:
            self._flush()
            if self._database is not None:
                self._database.close()
                self._database = None

    def __call__(self, path: Path) -> str:
        """sha256 of a regular file as 64 hex digits; errors as `hash_file`."""
        stamp = _stamp(path)
        if stamp is not None and (found := self._find(stamp)) is not None:
            return found
        digest = hash_file(path)
        settled = stamp is not None and time.time_ns() - stamp[2] > _SETTLED_NS
        with self._lock:
            self.num_read += 1
            if stamp is not None and settled and _stamp(path) == stamp:
                self._known[stamp] = digest
                if self._database is not None:
                    self._pending.append((*stamp, digest))
                    if len(self._pending) >= _PENDING:
                        self._flush()
        return digest

    def read_all(
        self, paths: Iterable[Path], *, on_progress: Callable[[int], None] | None = None
    ) -> None:
        """Read many files with several threads, so that their hashes are known.

        Those that cannot be read raise when they are asked for.

        Args:
            on_progress: called with the number of files since the last call.
        """

        def attempt(path: Path) -> None:
            with suppress(InputError):
                self(path)

        with ThreadPoolExecutor(_THREADS) as threads:
            for _ in threads.map(attempt, paths):
                if on_progress:
                    on_progress(1)

    def _find(self, stamp: tuple[str, int, int]) -> str | None:
        with self._lock:
            found = self._known.get(stamp)
            if found is None and self._database is not None:
                rows: list[Any] = self._try(
                    "SELECT sha256 FROM files WHERE path = ? AND size = ? AND mtime_ns = ?", stamp
                )
                if rows and _DIGEST.fullmatch(str(rows[0][0])):
                    found = self._known[stamp] = str(rows[0][0])
            return found

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if not pending or self._database is None:
            return
        try:
            with self._database:
                self._database.executemany(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", pending
                )
        except sqlite3.Error as error:
            self._give_up(error)

    def _try(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        assert self._database is not None
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            self._give_up(error)
            return []

    def _give_up(self, error: sqlite3.Error) -> None:
        logger.warning("hashes of files are not remembered: %s", error)
        if self._database is not None:
            self._database.close()
        self._database = None


def _stamp(path: Path) -> tuple[str, int, int] | None:
    try:
        absolute = os.path.abspath(path)  # noqa: PTH100  Path.absolute keeps `..`
        absolute.encode("utf-8")  # a name that is no text cannot be a key
        status = path.stat()
    except (OSError, ValueError):
        return None
    return absolute, status.st_size, status.st_mtime_ns


def _opened(path: Path) -> sqlite3.Connection | None:
    connection = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=_WAIT_SECONDS, check_same_thread=False)
        with connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, "
                "mtime_ns INTEGER, sha256 TEXT) WITHOUT ROWID"
            )
        return connection
    except (OSError, sqlite3.Error) as error:
        logger.warning(
            "hashes of files are not remembered in %s: %s; if this stays, delete it", path, error
        )
        if connection is not None:
            connection.close()
        return None
