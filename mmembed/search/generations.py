"""Which of several indexes in one folder counts: what a migration switches.

    library.index/                  the first index, in the format of its engine
    library.index/current.json      names the folder that counts instead; replaced atomically
    library.index/spaces/<name>/    an index of another model

`opening.open_index` goes through `current_folder`, so a switch needs one rename, whichever engine
keeps the rows.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from mmembed.errors import StoreError
from mmembed.store.durable import dump_record, read_record, write_atomically

__all__ = ["current_folder", "make_current", "remove_others", "space_folder"]

_FORMAT = "mmembed-current/1"
_POINTER = "current.json"
_SPACES = "spaces"
_NAME = re.compile(r"[0-9a-f]{1,64}-[0-9]+")
# what the engines write into the folder of an index, and nothing that a user put there
_FIRST = ("index.json", "rows-*.jsonl", "vectors", "rows.lance", "errors.jsonl")


def current_folder(folder: Path) -> Path:
    """Where the index of this folder lies: in the folder itself before the first migration.

    Raises:
        StoreError: the record of the last migration is damaged.
    """
    if not (folder / _POINTER).exists():
        return folder
    name = read_record(folder / _POINTER, _FORMAT)["folder"]
    if not _NAME.fullmatch(name):
        raise StoreError(f"{folder / _POINTER} names {name!r}, which is no folder of an index")
    return folder / _SPACES / name


def space_folder(folder: Path, *, fingerprint: str, dimension: int) -> Path:
    """Where an index of this space is made."""
    return folder / _SPACES / f"{fingerprint[:16]}-{dimension}"


def make_current(folder: Path, chosen: Path) -> None:
    """Make `chosen`, a `space_folder`, the index that counts; a crash leaves the old or the new."""
    record = {"format": _FORMAT, "folder": chosen.name}
    write_atomically(folder / _POINTER, dump_record(record) + b"\n")


def remove_others(folder: Path) -> None:
    """Delete the indexes that do not count any more. A crash before the end is made good by the
    next call."""
    chosen = current_folder(folder)
    if chosen == folder:
        return
    others = [path for path in (folder / _SPACES).iterdir() if path != chosen]
    for path in [*others, *(path for name in _FIRST for path in folder.glob(name))]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
