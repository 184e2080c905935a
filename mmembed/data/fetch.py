"""Get published data sets: all their files, or the first rows of their tables.

plan_fetch -> fetch -> ROOT/owner/name/..., noted in ROOT/data.lock
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from mmembed.data.hub import RepositorySource
from mmembed.data.lock import (
    LOCK_NAME,
    DataLock,
    LockedDataset,
    LockedFile,
    read_lock,
    write_lock,
)
from mmembed.data.samples import is_small_text, is_table, sample_name, write_sample
from mmembed.datasets import DatasetCard
from mmembed.errors import DataError
from mmembed.store.content import hash_file

__all__ = ["Download", "FetchResult", "fetch", "noted_commits", "plan_fetch"]


@dataclass(frozen=True)
class Download:
    """What one card needs."""

    card: DatasetCard
    revision: str
    rows: int | None = None

    def target(self, root: Path) -> Path:
        return root / self.card.repo

    @property
    def patterns(self) -> tuple[str, ...] | None:
        """Of the files of the repository: those of the card, and what describes it."""
        return ("README.md", *self.card.files) if self.card.files else None

    def wanted(self, names: Iterable[str]) -> list[str]:
        patterns = self.patterns or ("*",)
        return sorted(name for name in names if any(fnmatch(name, each) for each in patterns))


@dataclass(frozen=True)
class FetchResult:
    """What was downloaded.

    Attributes:
        left_out: files that a sample has no part of, such as archives of pictures.
    """

    name: str
    folder: Path
    commit: str
    num_files: int
    num_bytes: int
    left_out: tuple[str, ...] = ()


def plan_fetch(
    cards: Sequence[DatasetCard], *, revision: str | None = None, rows: int | None = None
) -> list[Download]:
    """One download for each card, each once.

    Raises:
        DataError: a data set that is not on the hub.
    """
    for card in cards:
        if not card.repo:
            raise DataError(
                f"{card.name} is not on the hub: get it as {card.url or 'its paper'} says"
                + (f". {card.media}" if card.media else "")
            )
    unique = {card.name: card for card in cards}
    return [Download(card, revision or card.revision, rows) for card in unique.values()]


def fetch(
    downloads: Sequence[Download],
    root: Path,
    source: RepositorySource,
    *,
    on_done: Callable[[FetchResult], None] | None = None,
) -> list[FetchResult]:
    """Download one after the other and note each in `root/data.lock`; may be cut and goes on.

    Raises:
        DataError: nothing of that name, not enough space, or the source cannot be reached.
    """
    results = []
    for download in downloads:
        result, noted = _fetch_one(download, root, source)
        _note(root / LOCK_NAME, noted)
        results.append(result)
        if on_done:
            on_done(result)
    return results


def noted_commits(root: Path) -> dict[str, str]:
    """Commits of the downloads below `root`, by name of the data set."""
    path = root / LOCK_NAME
    if not path.is_file():
        return {}
    return {entry.name: entry.commit for entry in read_lock(path).datasets if entry.commit}


def _fetch_one(
    download: Download, root: Path, source: RepositorySource
) -> tuple[FetchResult, LockedDataset]:
    card, folder = download.card, download.target(root)
    commit, sizes = source.resolve(card.repo, download.revision)
    names = download.wanted(sizes)
    if not set(names) - {"README.md"}:
        raise DataError(
            f"{card.repo}@{download.revision} has no file like {', '.join(card.files)}; it has "
            f"{', '.join(sorted(sizes)[:10]) or 'none'}"
        )
    left_out: list[str] = []
    if download.rows is None:
        _check_space(folder, names, sizes)
        source.download(card.repo, commit, folder, download.patterns)
    else:
        whole = [name for name in names if not is_table(name) and is_small_text(name, sizes[name])]
        tables = _first_shards(names)
        left_out = [name for name in names if name not in whole and not is_table(name)]
        source.download(card.repo, commit, folder, [_literal(name) for name in whole])
        for name in tables:
            with source.open(card.repo, commit, name) as opened:
                write_sample(opened, folder / sample_name(name), download.rows)
        names = [*whole, *map(sample_name, tables)]
    files = {name: _locked(folder / name) for name in sorted(names)}
    noted = LockedDataset(
        name=card.name,
        repo=card.repo,
        revision=download.revision,
        commit=commit,
        license=card.license,
        sample_rows=download.rows,
        folder=card.repo,
        files=files,
    )
    num_bytes = sum(file.size for file in files.values())
    return (
        FetchResult(card.name, folder, commit, len(files), num_bytes, tuple(left_out)),
        noted,
    )


def _literal(name: str) -> str:
    """A pattern that matches this name only."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _first_shards(names: Sequence[str]) -> list[str]:
    """Of a table in several files only the first one."""
    first: dict[str, str] = {}
    for name in sorted(filter(is_table, names)):
        first.setdefault(sample_name(name), name)
    return list(first.values())


def _check_space(folder: Path, names: Sequence[str], sizes: Mapping[str, int]) -> None:
    missing = sum(sizes[name] for name in names if not (folder / name).is_file())
    there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    if missing > free:
        raise DataError(
            f"{folder} needs {missing / 1e9:.1f} GB, and {there} has {free / 1e9:.1f} GB free; "
            "free some, choose another --root, or take --rows"
        )


def _locked(path: Path) -> LockedFile:
    return LockedFile(sha256=hash_file(path), size=path.stat().st_size)


def _note(path: Path, entry: LockedDataset) -> None:
    known = read_lock(path).datasets if path.is_file() else ()
    kept = tuple(other for other in known if other.name != entry.name)
    write_lock(path, DataLock(datasets=(*kept, entry)))
