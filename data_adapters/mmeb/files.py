"""The local files of the benchmark: annotation tables in the layouts of the hub, images, frames.

Paths in annotations come from strangers: an absolute one, or one that leaves the folder of the
data, is refused. Media that are not there are collected, so that one error lists them all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_adapters.cells import is_safe, shortened
from mmembed.errors import DataError
from mmembed.tables.layouts import find_table, read_rows

__all__ = ["MediaFiles", "frame_indices", "natural_key"]

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SHOWN = 20


class MediaFiles:
    """What lies under one folder of data.

    Args:
        root: a clone of `TIGER-Lab/MMEB-V2` with its archives unpacked. A repository `org/name`
            of annotations lies in `annotations/org/name`, `annotations/name`, `org/name`, or, in
            the hub's cache format, in `annotations/datasets--org--name/snapshots/<revision>`.
        allow_missing: whether `raise_if_missing` lets missing media pass.

    Attributes:
        missing: media that were asked for and are not there, relative to `root`, each once.
        files: annotation files that were read.
    """

    def __init__(self, root: str | Path, allow_missing: bool = False) -> None:
        self.root = Path(root)
        self.allow_missing = allow_missing
        self.missing: list[str] = []
        self.files: list[Path] = []
        self._images: dict[str, Path | None] = {}
        self._frames: dict[str, tuple[Path, ...]] = {}
        self._noted: set[str] = set()
        if not self.root.is_dir():
            raise DataError(f"the folder of the data is not there: {self.root}")

    def rows(
        self,
        repo: str,
        config: str,
        split: str,
        *,
        columns: Sequence[str] | None = None,
        also: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """All that `each_row` gives."""
        return list(self.each_row(repo, config, split, columns=columns, also=also))

    def each_row(
        self,
        repo: str,
        config: str,
        split: str,
        *,
        columns: Sequence[str] | None = None,
        also: Sequence[str] = (),
    ) -> Iterator[dict[str, Any]]:
        """The rows of one split of a repository, in the order of the files, a few at a time.

        Embedded images stay as they are stored, `{"bytes": ..., "path": ...}` (see `embedded`).

        Args:
            repo: `org/name` on the hub.
            config: empty for a repository with only one.
            columns: only these, such as all but the pictures.
            also: further folders, relative to the root, where a copy of the repository may lie.

        Raises:
            DataError: no such table (the message lists what was looked for), a shard is
                missing, a file is damaged, or a column is not there.
        """
        files = self._table(repo, config, split, also)
        if not files:
            what = f"{repo}, configuration {config or '(the only one)'}, split {split}"
            raise DataError(
                f"{what}: no table found. Looked for <config>/<split>-*.parquet, "
                "data/<split>-*.parquet, the data_files of README.md, <split> or <config> as "
                ".parquet / .jsonl / .json, and folders of datasets.save_to_disk in "
                f"{', '.join(map(str, self._folders(repo, also)))}. Download the repository there: "
                f"hf download {repo} --repo-type dataset --local-dir "
                f"{self.root / 'annotations' / repo}"
            )
        self.files.extend(file for file in files if file not in self.files)
        return (row for file in files for row in read_rows(file, columns))

    def has_table(self, repo: str, config: str, split: str, *, also: Sequence[str] = ()) -> bool:
        """Whether `rows` would find a table."""
        return bool(self._table(repo, config, split, also))

    def image(self, relative: str, *others: str) -> Path | None:
        """An image, at the first of these paths where there is a file; None when at none of them.

        The others are where the same file lies after another way of unpacking the archives.
        """
        if relative not in self._images:
            self._images[relative] = self.find(relative, *others)
            if self._images[relative] is None:
                self.note_missing(relative)
        return self._images[relative]

    def find(self, *relatives: str) -> Path | None:
        """The first of these paths where there is a file; what is not there is not noted."""
        return next(filter(_is_file, map(self.inside, relatives)), None)

    def note_missing(self, relative: str) -> None:
        if relative not in self._noted:
            self._noted.add(relative)
            self.missing.append(relative)

    def frames(self, relative: str, *others: str) -> tuple[Path, ...]:
        """The pictures of a folder in natural order; () when there is no such folder, or none."""
        if relative not in self._frames:
            folders = map(self.inside, (relative, *others))
            found = next(filter(None, map(_pictures_of, folders)), ())
            self._frames[relative] = found
            if not found:
                self.note_missing(relative)
        return self._frames[relative]

    def embedded(self, cell: Any, folder: str, otherwise: str) -> Path | bytes | None:
        """The picture in a cell of a table: its bytes, or a file of that name in `folder`.

        A cell is `{"bytes": ..., "path": ...}`, bytes, or a path; of an empty one the file
        `otherwise` is missing.
        """
        content, name = cell, cell
        if isinstance(cell, dict):
            content, name = cell.get("bytes"), cell.get("path")
        if isinstance(content, bytes) and content:
            return content
        return self.image(f"{folder}/{name if isinstance(name, str) and name else otherwise}")

    def inside(self, relative: str) -> Path:
        """The path below the root.

        Raises:
            DataError: the path is absolute, leaves the root, or is none at all.
        """
        if not is_safe(relative):
            raise DataError(
                f"an annotation names the file {shortened(relative)}; paths must be relative and "
                "stay inside the folder of the data"
            )
        return self.root.joinpath(relative.replace("\\", "/"))

    def raise_if_missing(self, name: str) -> None:
        """Raise with the list of all missing media, unless they are allowed.

        Raises:
            DataError: `missing` has all of them, the message the first ones.
        """
        if not self.missing or self.allow_missing:
            return
        more = len(self.missing) - SHOWN
        raise DataError(
            f"{name}: {len(self.missing)} media files or frame folders are not in {self.root}: "
            f"{', '.join(self.missing[:SHOWN])}{f' and {more} more' if more > 0 else ''}. Unpack "
            "the archives there, or allow missing media: what needs them is dropped and the "
            "result is marked as partial.",
            missing=self.missing,
        )

    def _folders(self, repo: str, also: Sequence[str]) -> list[Path]:
        organisation, _, name = repo.partition("/")
        cached = self.root / "annotations" / f"datasets--{organisation}--{name}" / "snapshots"
        snapshots = sorted(cached.iterdir()) if cached.is_dir() else []
        plain = [f"annotations/{repo}", f"annotations/{name}", repo, *also]
        return [*map(self.inside, plain), *(snapshots if len(snapshots) == 1 else ())]

    def _table(self, repo: str, config: str, split: str, also: Sequence[str]) -> list[Path]:
        found = (find_table(folder, config, split) for folder in self._folders(repo, also))
        return next(filter(None, found), [])


def _pictures_of(folder: Path) -> tuple[Path, ...]:
    """The pictures in a folder in natural order; () when there is no such folder."""
    try:
        with os.scandir(folder) as found:
            names = [entry.name for entry in found if entry.is_file()]
    except OSError:
        return ()
    pictures = [
        name for name in names if name.lower().endswith(FRAME_SUFFIXES) and not name.startswith(".")
    ]
    return tuple(folder / name for name in sorted(pictures, key=natural_key))


def _is_file(path: Path) -> bool:
    """Like `Path.is_file`, also for names that the file system refuses."""
    try:
        return path.is_file()
    except OSError:
        return False


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Key that sorts `frame_2` before `frame_10`."""
    pieces = re.split(r"(\d+)", name)
    return tuple(
        (0, int(piece), piece) if position % 2 else (1, 0, piece)
        for position, piece in enumerate(pieces)
    )


def frame_indices(n: int, k: int) -> list[int]:
    """Which of `n` frames are used when at most `k` are: `linspace(0, n - 1, k)`, truncated."""
    assert n >= 0 and k >= 1
    return list(range(n)) if n <= k else np.linspace(0, n - 1, k).astype(int).tolist()
