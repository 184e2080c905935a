"""The file behind a row, only as long as it is what was indexed."""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path

from mmembed.search.rows import Row
from mmembed.server.errors import RequestError
from mmembed.store.content import hash_file

__all__ = ["indexed_file"]


def indexed_file(row: Row) -> Path:
    """The path of a row's file.

    Raises:
        RequestError: 410, when the file is gone or holds something else by now.
    """
    path = Path(row.path)
    try:
        status = path.stat()
        is_same = stat.S_ISREG(status.st_mode) and _is_indexed(path, status, row)
    except (OSError, ValueError):
        raise RequestError(
            410, "file_gone", f"{path.name} is not there any more; bring the index up to date"
        ) from None
    if not is_same:
        raise RequestError(
            410, "file_changed", f"{path.name} has changed since; bring the index up to date"
        )
    return path


def _is_indexed(path: Path, status: os.stat_result, row: Row) -> bool:
    """A file that was only touched or copied has another date and the same content."""
    if status.st_size != row.size:
        return False
    if status.st_mtime_ns == row.mtime_ns:
        return True
    return _hash(path, status.st_size, status.st_mtime_ns, status.st_ino) == row.content_hash


@lru_cache(maxsize=4096)
def _hash(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    return hash_file(path)
