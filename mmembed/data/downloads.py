"""Which of the published data sets lie under a folder of downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mmembed.data.samples import is_table
from mmembed.datasets import FLOATING, DatasetCard
from mmembed.errors import DataError
from mmembed.tables.layouts import find_table, repository_folders

__all__ = ["Presence", "download_folder", "is_pinned", "presence"]

Presence = Literal["present", "partial", "absent"]


def is_pinned(card: DatasetCard) -> bool:
    """Whether the card names one state of its source, and not whatever is there today."""
    return card.revision != FLOATING


def download_folder(root: Path, place: str) -> Path | None:
    """The folder of its files, the best of those that are there.

    Args:
        place: see `DatasetCatalog.place`.
    """
    folders = repository_folders(root, place)
    return next((folder for folder in folders if folder.is_dir()), None)


def presence(card: DatasetCard, root: Path, place: str) -> Presence:
    """Whether its files are there, without opening them.

    `partial`: some table of `card.files` is not there, shards are missing, or a download was cut.
    Archives of pictures and clips may have been unpacked and deleted; they do not count.
    """
    folder = download_folder(root, place)
    if folder is None:
        return "absent"
    tables = [pattern for pattern in card.files if is_table(pattern)]
    found = [_matches(folder, pattern) for pattern in tables or card.files or ("*",)]
    if not any(found):
        return "absent"
    if not all(found) or _is_cut(folder):
        return "partial"
    try:
        find_table(folder, card.config, card.split)
    except DataError:
        return "partial"
    return "present"


def _matches(folder: Path, pattern: str) -> bool:
    if pattern.endswith("**"):
        pattern += "/*"
    found = folder.glob(pattern)
    return any(path.is_file() or pattern == "*" for path in found if path.name != ".cache")


def _is_cut(folder: Path) -> bool:
    """The hub's library leaves what it has not finished under this name."""
    waiting = folder / ".cache" / "huggingface" / "download"
    return waiting.is_dir() and any(waiting.rglob("*.incomplete"))
