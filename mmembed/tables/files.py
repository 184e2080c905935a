"""Which files a path to rows means: itself, a saved data set, the shards of a folder."""

from __future__ import annotations

from pathlib import Path

from mmembed.errors import DataError
from mmembed.tables.layouts import find_table
from mmembed.tables.opening import TABLE_SUFFIXES

__all__ = ["table_files"]


def table_files(path: str | Path, split: str = "train") -> list[Path]:
    """The files of the rows at `path`, in order.

    A folder is one of `datasets.save_to_disk`, a repository of the hub with this split, or holds
    the shards of one table and no other: files of one suffix.

    Raises:
        DataError: nothing is there, or the files of a folder are of several kinds.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    found = find_table(path, "", split)
    if found:
        return found
    files = sorted(file for file in path.iterdir() if file.is_file() and _suffix(file))
    suffixes = sorted({_suffix(file) for file in files})
    if not files:
        raise DataError(
            f"{path}: no table of split {split!r} is there; rows are read from files that end in "
            f"{', '.join(TABLE_SUFFIXES)}"
        )
    if len(suffixes) > 1:
        raise DataError(
            f"{path} has tables of several kinds ({', '.join(suffixes)}); name one file of "
            f"{', '.join(file.name for file in files[:10])}"
        )
    return files


def _suffix(file: Path) -> str:
    name = file.name.lower()
    return next((suffix for suffix in reversed(TABLE_SUFFIXES) if name.endswith(suffix)), "")
