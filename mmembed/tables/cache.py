"""The user's cache folder, and files in it that are made once however many processes ask.

It only holds what can be made again: any of it may be deleted while nothing runs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mmembed.errors import DataError

__all__ = ["cache_folder", "made_once"]


def cache_folder() -> Path | None:
    """$MMEMBED_CACHE, else $XDG_CACHE_HOME/mmembed, else ~/.cache/mmembed; None without a home."""
    if folder := os.environ.get("MMEMBED_CACHE"):
        return Path(folder)
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return base / "mmembed"


def made_once(target: Path, write: Callable[[Path], None]) -> Path:
    """`target`, written by `write(temporary)` unless it is there; whole or not at all.

    Raises:
        DataError: the folder cannot be written to, or is full.
    """
    if target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f".lock-{target.name}")):
            if not target.is_file():
                for left_over in target.parent.glob(f".tmp-*-{target.name}"):
                    left_over.unlink()
                temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
                try:
                    write(temporary)
                    with temporary.open("rb+") as file:
                        os.fsync(file.fileno())
                    temporary.replace(target)
                finally:
                    temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot write {target} ({error.strerror or type(error).__name__}), a copy of a table "
            "that can be read row by row; make room, or set MMEMBED_CACHE to another folder"
        ) from None
    return target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for the lock; the kernel frees it when its process dies."""
    with path.open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield
