"""Names for rows that say nothing, and what the filters of the page offer.

A row's id holds an absolute path, so the page never sees it: it gets a keyed hash, and what it
sends back is looked up here. Only rows of the index can be named at all.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePath
from typing import Any

from mmembed.search.rows import KINDS, Row

__all__ = ["Catalog", "Folder", "opaque"]

_SHOWN_FOLDERS = 200


def opaque(name: str, key: str) -> str:
    """A name without meaning, always the same for the same row."""
    return hashlib.blake2b(
        name.encode(errors="surrogatepass"), key=key.encode(), digest_size=12
    ).hexdigest()


@dataclass(frozen=True)
class Folder:
    """A folder that results can be limited to; `label` begins at the folder that was indexed."""

    id: str
    path: str
    label: str
    rows: int


@dataclass
class Catalog:
    """One look at all rows of an index.

    Attributes:
        ids: row ids by their opaque names; searches add rows that came later.
        root: the folder that holds every file; None without files.
    """

    key: str
    ids: dict[str, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    suffixes: Counter[str] = field(default_factory=Counter)
    folders: dict[str, Folder] = field(default_factory=dict)
    root: PurePath | None = None
    modified: tuple[float, float] | None = None
    max_page: int | None = None
    max_duration: float | None = None

    @classmethod
    def of(cls, rows: Iterable[Row], key: str) -> Catalog:
        found = cls(key)
        counts: Counter[str] = Counter()
        for row in rows:
            found.name(row)
            found.kinds[row.kind] += 1
            found.suffixes[row.suffix] += 1
            counts[os.path.dirname(row.path)] += 1  # noqa: PTH120 - a million times
            if row.mtime_ns:
                low, high = found.modified or (row.modified, row.modified)
                found.modified = min(low, row.modified), max(high, row.modified)
            if row.page is not None:
                found.max_page = max(found.max_page or 0, row.page)
            if row.duration_seconds is not None:
                found.max_duration = max(found.max_duration or 0.0, row.duration_seconds)
        if counts:
            found.root = PurePath(os.path.commonpath(list(counts)))
            found._fold(counts)
        return found

    def name(self, row: Row) -> str:
        """The opaque name of a row, which is known from now on."""
        name = opaque(row.id, self.key)
        self.ids[name] = row.id
        return name

    def folder_label(self, path: str) -> str:
        """The folder of a file for people, from the indexed folder on."""
        parent = PurePath(path).parent
        if self.root is None or not parent.is_relative_to(self.root):
            return parent.name
        return str(PurePath(self.root.name or "/", parent.relative_to(self.root)))

    def describe(self) -> dict[str, Any]:
        """For the page: what there is to filter by."""
        low, high = self.modified or (None, None)
        return {
            "kinds": {kind: self.kinds[kind] for kind in KINDS},
            "folders": [
                {"id": folder.id, "label": folder.label, "rows": folder.rows}
                for folder in self.folders.values()
            ],
            "suffixes": sorted(name for name in self.suffixes if name),
            "modified": {"min": _day(low), "max": _day(high)},
            "max_page": self.max_page,
            "max_duration": self.max_duration,
        }

    def _fold(self, counts: Counter[str]) -> None:
        """Count every folder with all below it; the largest are offered, in the order of paths."""
        assert self.root is not None
        totals: Counter[PurePath] = Counter()
        for name, count in counts.items():
            folder = PurePath(name)
            for each in (folder, *folder.parents):
                totals[each] += count
                if each == self.root:
                    break
        kept = sorted(path for path, _ in totals.most_common(_SHOWN_FOLDERS))
        for path in kept:
            name = opaque(f"folder {path}", self.key)
            label = self.folder_label(str(path / "file"))
            self.folders[name] = Folder(name, str(path), label, totals[path])


def _day(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment).date().isoformat()
