"""What a large encode job reads: JSON-lines files, tables, saved data sets and folders of media.

    paths -> plan_sources -> Plan: shards of at most N rows -> read_shard -> vector_files

Planning reads each source once, from front to back, and keeps for each shard where its rows are;
reading a shard then touches those rows only. Nothing grows with the number of rows but 8 bytes for
each id, by which equal ids are found.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmembed.config.validation import StrictModel
from mmembed.errors import (
    ConfigError,
    InputError,
    InputErrorCode,
    MissingDependencyError,
    StoreError,
)
from mmembed.inputs.item_files import FileItem, file_item, line_value, lines_of
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.search.segments import Segmentation, cut_file
from mmembed.search.tables import Table
from mmembed.search.walk import walk
from mmembed.store.content import hash_file
from mmembed.types import MultimodalInput, Page, Text, Video

__all__ = ["Plan", "Shard", "Source", "SourceFile", "Unusable", "plan_sources", "read_shard"]


class SourceFile(StrictModel):
    """A file of items as it was when the job was planned.

    Attributes:
        first_number: of its first row, for items that bring no id.
        prefix: in front of that number, where several sources would give equal ids.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str
    first_number: int = 1
    prefix: str = ""

    def problem(self) -> str | None:
        """What is no longer as it was; a file with another date is read again."""
        path = Path(self.path)
        try:
            status = path.stat()
            if (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns):
                return None
            if status.st_size == self.size and hash_file(path) == self.sha256:
                return None
        except (OSError, InputError):
            return f"{path} cannot be read any more"
        return f"{path} had {self.size:,} bytes with sha256 {self.sha256[:12]} and has changed"


class Source(StrictModel):
    """One source as the user named it, and the files that hold its items.

    Attributes:
        listing: of a folder: sha256 over names, sizes and dates of what is in it.
    """

    path: str
    kind: Literal["lines", "table", "dataset", "folder"]
    files: tuple[SourceFile, ...]
    listing: str | None = None


class Unusable(StrictModel):
    """A file of a folder that gave no items, as in `InputError`."""

    id: str
    part: str
    code: InputErrorCode
    detail: str


@dataclass(frozen=True)
class Shard:
    """Rows that are encoded together.

    Attributes:
        file: number of the file among those of all sources.
        offset: of its first row: bytes in a file of lines, rows in a table.
        number: of its first row in the file: the line, or the row from 1.
        first: its first row among those of all shards.
    """

    index: int
    file: int
    offset: int
    number: int
    first: int
    rows: int


class Plan(StrictModel):
    """All rows of a job.

    Attributes:
        ranges: (file, offset, number, rows) of each shard; see `Shard`.
        ignored: columns of tables that are not read.
    """

    sources: tuple[Source, ...]
    ranges: tuple[tuple[int, int, int, int], ...]
    unusable: tuple[Unusable, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[SourceFile, ...]:
        return tuple(file for source in self.sources for file in source.files)

    @property
    def num_rows(self) -> int:
        return sum(rows for *_, rows in self.ranges)

    @property
    def shards(self) -> list[Shard]:
        found: list[Shard] = []
        first = 0
        for index, (file, offset, number, rows) in enumerate(self.ranges):
            found.append(Shard(index, file, offset, number, first, rows))
            first += rows
        return found

    def check_sources(self, paths: Sequence[Path], *, skip: Path) -> None:
        """Refuse sources that are not those of the plan. Raises StoreError."""
        given, planned = [str(path.resolve()) for path in paths], [s.path for s in self.sources]
        if given != planned:
            raise StoreError(
                f"{skip} was begun with the source {', '.join(planned)}; this command names "
                f"{', '.join(given)}. Give the same, or another --out"
            )
        problems = [problem for file in self.files if (problem := file.problem())]
        for source in self.sources:
            if source.listing is not None and _listing(Path(source.path), skip) != source.listing:
                problems.append(f"files of {source.path} were added, removed or changed")
        if problems:
            raise StoreError(
                f"{skip} was begun with other data: {'; '.join(problems)}. Restore them, or "
                "encode into another --out"
            )


def plan_sources(paths: Sequence[Path], *, shard_rows: int, folder: Path) -> Plan:
    """Read all sources once.

    Args:
        folder: of the job; here go the items of folders, cut from their files, as JSON lines.

    Raises:
        ConfigError: a source cannot be read, holds nothing, or two rows have the same id.
    """
    planner = _Planner(shard_rows, several=len(paths) > 1)
    for number, path in enumerate(paths):
        planner.add(path.resolve(), listing=folder / f"listing-{number}.jsonl")
    plan = Plan(
        sources=tuple(planner.sources),
        ranges=tuple(planner.ranges),
        unusable=tuple(planner.unusable),
        ignored=tuple(dict.fromkeys(planner.ignored)),
    )
    if not plan.ranges:
        raise ConfigError(f"nothing to encode in {', '.join(map(str, paths))}")
    _refuse_equal_ids(planner.ids, plan)
    return plan


def read_shard(
    files: Sequence[SourceFile], shard: Shard, tables: dict[int, Table] | None = None
) -> list[FileItem]:
    """The items of a shard, in order.

    Args:
        tables: those that are open, by file; they stay where they are for the next shard.

    Raises:
        StoreError: the file has changed since the plan was made.
    """
    file = files[shard.file]
    path = Path(file.path)
    items: list[FileItem]
    if _is_table(path):
        tables = {} if tables is None else tables
        if shard.file not in tables:
            tables.clear()
            tables[shard.file] = Table(path)
        items = tables[shard.file].items(
            shard.offset, shard.rows, first_number=file.first_number, prefix=file.prefix
        )
    else:
        lines = lines_of(path, offset=shard.offset, number=shard.number)
        items = [
            file_item(*line_value(line, number, file.prefix), folder=path.parent)
            for number, _, line in islice(lines, shard.rows)
        ]
    if problem := file.problem():
        raise StoreError(f"{problem} while it was being encoded")
    if len(items) != shard.rows:
        raise StoreError(
            f"{path} gave {len(items):,} of the {shard.rows:,} rows of shard {shard.index}; is it "
            "damaged?"
        )
    return items


@dataclass
class _Planner:
    shard_rows: int
    several: bool
    sources: list[Source] = field(default_factory=list)
    ranges: list[tuple[int, int, int, int]] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    ids: array[int] = field(default_factory=lambda: array("q"))
    num_files: int = 0

    def add(self, path: Path, *, listing: Path) -> None:
        prefix = f"{path}:" if self.several else ""
        digest = None
        kind: Literal["lines", "table", "dataset", "folder"]
        if path.is_dir() and (path / "dataset_dict.json").exists():
            raise ConfigError(
                f"{path} holds several data sets; name one of "
                f"{', '.join(sorted(str(p.parent) for p in path.glob('*/state.json')))}"
            )
        if path.is_dir() and (path / "state.json").exists():
            kind, files, number = "dataset", [], 1
            for part in _dataset_files(path):
                before = len(self.ids)
                files.append(self._table(part, number, prefix))
                number += len(self.ids) - before
        elif path.is_dir():
            kind = "folder"
            digest = self._cut(path, listing)
            files = [self._lines(listing, "")]
        elif _is_table(path):
            kind, files = "table", [self._table(path, 1, prefix)]
        else:
            kind, files = "lines", [self._lines(path, prefix)]
        self.sources.append(Source(path=str(path), kind=kind, files=tuple(files), listing=digest))

    def _lines(self, path: Path, prefix: str) -> SourceFile:
        digest = hashlib.sha256()
        status = _stat(path)
        for number, offset, line in lines_of(path, also=digest.update):
            last = self.ranges[-1] if self.ranges else (-1, 0, 0, 0)
            if last[0] != self.num_files or last[3] == self.shard_rows:
                self.ranges.append((self.num_files, offset, number, 1))
            else:
                self.ranges[-1] = (*last[:3], last[3] + 1)
            self.ids.append(hash(line_value(line, number, prefix)[0]))
        self.num_files += 1
        return _source_file(path, status, digest.hexdigest(), prefix=prefix)

    def _table(self, path: Path, first_number: int, prefix: str) -> SourceFile:
        status = _stat(path)
        table = Table(path)
        self.ignored += table.ignored
        for start in range(0, table.num_rows, self.shard_rows):
            rows = min(self.shard_rows, table.num_rows - start)
            self.ranges.append((self.num_files, start, start + 1, rows))
        file = _source_file(path, status, hash_file(path), prefix=prefix, first_number=first_number)
        self.ids.extend(map(hash, table.names(first_number=first_number, prefix=prefix)))
        self.num_files += 1
        return file

    def _cut(self, root: Path, listing: Path) -> str:
        """Write the items of a folder as lines; returns the digest of what is in it."""
        digest = _listing(root, listing.parent)
        found = walk(root, skip=listing.parent.resolve())
        if not found.files:
            kinds = ", ".join(f"{n} {kind}" for kind, n in found.ignored.most_common(5))
            raise ConfigError(
                f"{root} holds no image, video, PDF or text file (it holds {kinds or 'nothing'}). "
                "Name files of items one by one: FOLDER/*.jsonl, FOLDER/*.parquet"
            )
        for unread, reason in found.unread.items():
            self._fail(unread, InputError("permission", f"cannot be listed: {reason}"))
        temporary = listing.with_name(f".tmp-{listing.name}")
        with MediaDecoder() as decoder, temporary.open("wb") as file:
            for path in found.files:
                try:
                    segments = cut_file(path, Segmentation(), decoder)
                except InputError as error:
                    self._fail(path, error)
                except MissingDependencyError as error:
                    self._fail(path, InputError("unsupported_format", str(error)))
                else:
                    for segment in segments:
                        line = {"id": segment.row.id, **_as_keys(segment.item)}
                        file.write(json.dumps(line).encode("ascii") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(listing)
        return digest

    def _fail(self, path: Path, error: InputError) -> None:
        self.unusable.append(
            Unusable(id=str(path), part=error.part, code=error.code, detail=error.detail)
        )


def _as_keys(item: MultimodalInput) -> dict[str, Any]:
    """An item of one part, as `cut_file` makes them, in the words of an item file."""
    (part,) = item.parts
    if isinstance(part, Text):
        return {"text": part.text}
    if isinstance(part, Page):
        return {"pdf": str(part.source), "pages": part.pages}
    if isinstance(part, Video):
        return {"video": str(part.source), "start": part.start, "end": part.end}
    return {"image": str(part.source)}


def _listing(root: Path, skip: Path) -> str:
    digest = hashlib.sha256()
    for path in walk(root, skip=skip.resolve()).files:
        status = path.stat()
        digest.update(os.fsencode(path) + f"\0{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _dataset_files(folder: Path) -> list[Path]:
    """The Arrow files of a data set that `datasets.Dataset.save_to_disk` wrote."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return [folder / entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{folder}/state.json is not that of a saved data set") from None


def _is_table(path: Path) -> bool:
    return path.suffix in (".parquet", ".arrow")


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None


def _source_file(path: Path, status: os.stat_result, digest: str, **more: Any) -> SourceFile:
    """With the date and size from before it was read, so that a change while reading shows."""
    return SourceFile(
        path=str(path),
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        sha256=digest,
        **more,
    )


def _refuse_equal_ids(hashes: array[int], plan: Plan) -> None:
    """Raises ConfigError naming an id that two rows have."""
    ordered = np.sort(np.frombuffer(hashes, dtype=np.int64))
    twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not twice:
        return
    seen: dict[str, int] = {}
    for shard in plan.shards:
        for place, item in enumerate(read_shard(plan.files, shard)):
            if hash(item.id) not in twice:
                continue
            row = shard.first + place
            if item.id in seen:
                raise ConfigError(
                    f"rows {seen[item.id] + 1:,} and {row + 1:,} have the same id {item.id!r}; "
                    "ids name rows, so each must be another"
                )
            seen[item.id] = row
