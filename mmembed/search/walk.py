"""Finds the files of a folder that can be searched; the first step of `corpus.index_folder`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mmembed.search.segments import TEXT_SUFFIXES
from mmembed.sources import kind_of_suffix, sniff_media

__all__ = ["Walk", "walk"]

_AMBIGUOUS_SUFFIXES = frozenset({".ts", ".mts"})  # MPEG transport streams, or TypeScript


@dataclass
class Walk:
    """What is in a folder.

    Attributes:
        files: images, videos, PDFs and texts by their suffix, in a fixed order.
        ignored: files of other kinds, counted by suffix.
        unread: folders that could not be listed, and what cannot be looked at, and why.
    """

    files: list[Path] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    unread: dict[Path, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all was found."""
        return not (self.files or self.ignored or self.unread)


def walk(root: Path, *, skip: Path | None, follow_links: bool = False) -> Walk:
    """List a folder and all below it, sorted by name; hidden files and folders are left out.

    Args:
        skip: a folder that is not entered (the index itself), links resolved.
        follow_links: also enter linked folders; each folder is entered once, so loops end.
    """
    found = Walk()
    entered: set[tuple[int, int]] = set()
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            status = folder.stat()
            if folder.resolve() == skip or (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            entries = sorted(folder.iterdir())
        except OSError as error:
            found.unread[folder] = error.strerror or type(error).__name__
            continue
        inner = []
        for path in entries:
            if path.name.startswith("."):
                continue
            try:
                is_folder = path.is_dir()
            except OSError as error:  # the folder may be listed but not entered
                found.unread[path] = error.strerror or type(error).__name__
                continue
            if is_folder:
                if follow_links or not path.is_symlink():
                    inner.append(path)
            elif _is_candidate(path):
                found.files.append(path)
            else:
                found.ignored[path.suffix.lower() or "no suffix"] += 1
        folders.extend(reversed(inner))
    return found


def _is_candidate(path: Path) -> bool:
    """Whether the suffix is one of an image, a video, a PDF or a text file."""
    if path.suffix.lower() in _AMBIGUOUS_SUFFIXES:
        try:
            if not path.is_file():  # opening a pipe could wait for ever
                return False
            with path.open("rb") as file:
                return sniff_media(file.read(1024)) == "video"
        except OSError:
            return False
    return path.suffix[1:].lower() in TEXT_SUFFIXES or kind_of_suffix(path) is not None
