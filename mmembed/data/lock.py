"""`data.lock`: which rows and files a model was trained on, and whether they are still the same.

`mmembed data lock` writes it, `mmembed data lock --check` and `mmembed train --data-lock` read it,
`mmembed data fetch` notes in one what it has downloaded. It is JSON, made for version control.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mmembed.config.validation import StrictModel, validate
from mmembed.data.adapter import DatasetAdapter, take
from mmembed.data.opening import OpenedDataset, open_entry
from mmembed.errors import DataError, InputError
from mmembed.inputs.contrastive import content_id
from mmembed.store.durable import write_atomically
from mmembed.store.file_hashes import FileHashes
from mmembed.types import ContrastiveExample, MultimodalInput, Part, Text

__all__ = [
    "LOCK_NAME",
    "DataLock",
    "LockedDataset",
    "LockedFile",
    "check_lock",
    "lock_datasets",
    "read_lock",
    "require_lock",
    "rows_sha256",
    "unplaced",
    "write_lock",
]

LOCK_NAME = "data.lock"

# Where the data lie differs between machines; what they are must not.
_PLACES = ("root", "path", "media_root")
_ROWS = 1024

Progress = Callable[[int], None]


class LockedFile(StrictModel):
    """Content of one file."""

    sha256: str
    size: int


class LockedDataset(StrictModel):
    """One data set as it was.

    Args:
        reference, arguments: what opens it; empty for a download that was not opened.
        commit: of the hub, that a download was resolved to.
        rows, rows_sha256: how many, and `rows_sha256` of them.
        sample_rows: rows of each table that were downloaded; None = all.
        folder: of the files, as it was given; `files` are named from there.
    """

    name: str
    reference: str = ""
    arguments: dict[str, Any] = Field(default_factory=dict)
    repo: str = ""
    revision: str = ""
    commit: str = ""
    license: str = ""
    rows: int | None = None
    rows_sha256: str = ""
    sample_rows: int | None = None
    folder: str = ""
    files: dict[str, LockedFile] = Field(default_factory=dict)


class DataLock(StrictModel):
    """All data sets of a run, by name."""

    format: Literal["mmembed data.lock 1"] = "mmembed data.lock 1"
    datasets: tuple[LockedDataset, ...] = ()


def read_lock(path: Path) -> DataLock:
    """Raises DataError: there is none, or it is damaged; ConfigError: it has keys of no lock."""
    try:
        fields = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; `mmembed data lock` writes it") from None
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from None
    if not isinstance(fields, dict):
        raise DataError(f"{path} is no lock of data")
    return validate(DataLock, fields, where=str(path))


def write_lock(path: Path, lock: DataLock) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(lock.model_dump(mode="json"), indent=2) + "\n"
    write_atomically(path, text.encode("ascii"))


def lock_datasets(
    opened: Sequence[OpenedDataset],
    *,
    commits: Mapping[str, str] | None = None,
    digest: FileHashes | None = None,
    on_progress: Progress | None = None,
) -> DataLock:
    """Read every row and every file of the tables once.

    Args:
        commits: of the hub by name of the data set, where a download noted it.
        on_progress: called with the number of rows since the last call.
    """
    digest = digest or FileHashes()
    return DataLock(
        datasets=tuple(_locked(one, commits or {}, digest, on_progress) for one in opened)
    )


def check_lock(
    path: Path,
    opened: Sequence[OpenedDataset] | None = None,
    *,
    read_rows: bool = True,
    on_progress: Progress | None = None,
) -> list[str]:
    """What differs from the lock, a line each; empty when everything is the same.

    Args:
        opened: what is used now; None = what the lock names, opened again.
        read_rows: compare the rows also of data sets whose files are all the same.

    Raises:
        DataError, ConfigError: see `read_lock`.
    """
    locked = read_lock(path)
    digest = FileHashes()
    if opened is None:
        return [
            line
            for entry in locked.datasets
            for line in (
                _compared(entry, _reopened(entry), digest, read_rows, on_progress)
                if entry.reference
                else _files_changed(entry, _in_folder(entry, path.parent, digest))
            )
        ]
    known = {entry.name: entry for entry in locked.datasets}
    used = {one.name: one for one in opened}
    lines = [f"{name}: is not in the lock" for name in used if name not in known]
    lines += [f"{name}: is in the lock and not used" for name in known if name not in used]
    for name, one in used.items():
        if name in known:
            lines += _compared(known[name], one, digest, read_rows, on_progress)
    return lines


def require_lock(path: Path, opened: Sequence[OpenedDataset]) -> None:
    """Refuse data that differ from the lock.

    Raises:
        DataError: naming the first differences.
    """
    changes = check_lock(path, opened)
    if changes:
        shown = "\n  ".join(changes[:10])
        more = f"\n  and {len(changes) - 10} more" if len(changes) > 10 else ""
        raise DataError(
            f"the data differ from {path}:\n  {shown}{more}\n"
            "Get the data that it names, or write it anew with `mmembed data lock`"
        )


def rows_sha256(adapter: DatasetAdapter, on_progress: Progress | None = None) -> str:
    """Of all rows in order: ids, what items say, which files they name; not what is in the files.

    A row that cannot be used counts as one that cannot be used.
    """
    digest = hashlib.sha256()
    for begin in range(0, len(adapter), _ROWS):
        rows = take(adapter, range(begin, min(begin + _ROWS, len(adapter))))
        digest.update(b"".join(map(_row_line, rows)))
        if on_progress:
            on_progress(len(rows))
    return digest.hexdigest()


def _row_line(row: ContrastiveExample | InputError) -> bytes:
    if isinstance(row, InputError):
        return f"unusable {row.code}\n".encode()
    items = (row.query, *row.positives, *row.hard_negatives)
    said = [
        *(row.task, row.query_id, row.positive_ids, row.label, row.negative_labels, row.scores),
        *(len(row.positives), len(row.hard_negatives)),
        *(item.instruction for item in items),
        *(content_id(unplaced(item)) for item in items),
    ]
    return f"{said!r}\n".encode("utf-8", "surrogatepass")


def unplaced(item: MultimodalInput) -> MultimodalInput:
    """The item with files by name, so that the folder of the data does not matter."""
    return MultimodalInput(tuple(map(_unplaced_part, item.parts)), item.instruction)


def _unplaced_part(part: Part) -> Part:
    if isinstance(part, Text):
        return part
    source: Any = part.source
    names = tuple(map(_name, source)) if isinstance(source, tuple) else _name(source)
    return replace(part, source=names)  # type: ignore[arg-type]


def _name(source: Any) -> Any:
    return source.name if isinstance(source, Path) else source


def _locked(
    one: OpenedDataset,
    commits: Mapping[str, str],
    digest: FileHashes,
    on_progress: Progress | None,
) -> LockedDataset:
    folder, files = _files_of(one.adapter, digest)
    return LockedDataset(
        name=one.name,
        reference=one.reference,
        arguments=dict(one.arguments),
        repo=one.card.repo if one.card else "",
        revision=one.adapter.revision,
        commit=commits.get(one.name, ""),
        license=one.adapter.license,
        rows=len(one.adapter),
        rows_sha256=rows_sha256(one.adapter, on_progress),
        folder=folder,
        files=files,
    )


def _files_of(adapter: DatasetAdapter, digest: FileHashes) -> tuple[str, dict[str, LockedFile]]:
    paths = [Path(path) for path in getattr(adapter, "files", ())]
    if not paths:
        return "", {}
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    digest.read_all(paths)
    return str(folder), {
        path.relative_to(folder).as_posix(): _locked_file(path, digest) for path in paths
    }


def _locked_file(path: Path, digest: FileHashes) -> LockedFile:
    return LockedFile(sha256=digest(path), size=path.stat().st_size)


def _in_folder(entry: LockedDataset, base: Path, digest: FileHashes) -> dict[str, LockedFile]:
    folder = base / entry.folder
    there = {name: folder / name for name in entry.files if (folder / name).is_file()}
    digest.read_all(there.values())
    return {name: _locked_file(path, digest) for name, path in there.items()}


def _reopened(entry: LockedDataset) -> OpenedDataset | str:
    try:
        return open_entry(entry.reference, entry.arguments, name=entry.name)
    except ValueError as error:
        return f"{entry.name}: cannot be opened: {error}"


def _compared(
    entry: LockedDataset,
    one: OpenedDataset | str,
    digest: FileHashes,
    read_rows: bool,
    on_progress: Progress | None,
) -> list[str]:
    if isinstance(one, str):
        return [one]
    adapter = one.adapter
    now = {
        "reference": one.reference,
        "arguments": _without_places(one.arguments),
        "revision": adapter.revision,
        "license": adapter.license,
        "rows": len(adapter),
    }
    then = {**entry.model_dump(), "arguments": _without_places(entry.arguments)}
    lines = [
        f"{entry.name}: {key} is {value!r}, was {then[key]!r}"
        for key, value in now.items()
        if value != then[key]
    ]
    changed = _files_changed(entry, _files_of(adapter, digest)[1], added=True)
    lines += changed
    known = bool(entry.files) and not lines
    if (read_rows or not known) and rows_sha256(adapter, on_progress) != entry.rows_sha256:
        lines.append(f"{entry.name}: the content of its rows has changed")
    return lines


def _files_changed(
    entry: LockedDataset, now: Mapping[str, LockedFile], *, added: bool = False
) -> list[str]:
    lines = []
    for name, then in entry.files.items():
        found = now.get(name)
        if found is None:
            lines.append(f"{entry.name}: {name} is missing")
        elif found != then:
            sizes = f"{then.size} bytes, now {found.size}"
            lines.append(f"{entry.name}: {name} has changed ({sizes})")
    if added:
        lines += [f"{entry.name}: {name} is new" for name in now if name not in entry.files]
    return lines


def _without_places(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key not in _PLACES}
