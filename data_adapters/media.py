"""Media that tables name or hold. Nothing is opened: what is missing shows when it is decoded.

Paths in tables come from strangers: an absolute one, or one that leaves its folder, is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_adapters.cells import is_safe, shortened
from mmembed.errors import InputError

__all__ = ["media_source", "safe_path"]


def safe_path(folder: Path, relative: Any, *, where: str) -> Path:
    """The path below `folder`.

    Raises:
        InputError: `forbidden_path`: no text, absolute, or leaves the folder.
    """
    if not isinstance(relative, str) or not is_safe(relative):
        raise InputError(
            "forbidden_path",
            f"{where}: names the file {shortened(relative)}; paths must be relative and stay "
            "inside the folder of the data",
        )
    return folder.joinpath(relative.replace("\\", "/"))


def media_source(cell: Any, folder: Path, *, where: str) -> Path | bytes:
    """The medium of a cell: `{"bytes": ..., "path": ...}`, bytes, or a relative path.

    Raises:
        InputError: the cell is empty or something else, or its path is unsafe.
    """
    content, name = cell, cell
    if isinstance(cell, dict):
        content, name = cell.get("bytes"), cell.get("path")
    if isinstance(content, bytes) and content:
        return content
    if not name:
        raise InputError("empty", f"{where}: no picture or clip: {shortened(cell)}")
    return safe_path(folder, name, where=where)
