"""Samples of webdataset archives: members of tar files that share a name, read by their place."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.errors import DataError, InputError, MissingDependencyError
from mmembed.tables.arrow_rows import ArrowRows
from mmembed.tables.content import check_content, damaged
from mmembed.tables.conversion import converted, decompress

__all__ = ["Member", "Sample", "TarIndex"]

# As webdataset splits names: the extension begins at the first dot of the last part.
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
_BLOCK = 512
_WRITTEN_ROWS = 10_000


@dataclass(frozen=True)
class Member:
    """Where the content of one member lies."""

    archive: Path
    offset: int
    size: int


@dataclass(frozen=True)
class Sample:
    """Members of one archive with the same `key`, by extension: `{"jpg": ..., "json": ...}`."""

    key: str
    members: Mapping[str, Member]


class TarIndex(Sequence[Sample]):
    """The samples of tar files, in order.

    A sample is a run of members whose names are equal up to the first dot of the last part, as
    webdataset has it; the rest, in lower case, is the extension. Links, folders, names that leave
    the archive's folder and names without an extension are passed over. Where members lie is kept
    in the cache, as is what `.tar.gz` holds, so that memory does not grow with the archives.

    Raises:
        DataError: an archive is not there, cut off or damaged, or a sample has an extension twice.
    """

    def __init__(self, files: Sequence[Path], *, cache: Path | None = None) -> None:
        if not files:
            raise DataError("no archives to read samples from")
        self.files = tuple(map(Path, files))
        opened = [_open(file, cache) for file in self.files]
        self._archives = [archive for archive, _ in opened]
        self._tables = [table for _, table in opened]
        self._starts = np.cumsum([0, *map(len, self._tables)])

    @property
    def samples(self) -> Sequence[Sample]:
        return self

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number, own = self._locate(index)
        row = self._tables[number][own]
        places = zip(row["extensions"], row["offsets"], row["sizes"], strict=True)
        archive = self._archives[number]
        members = {name: Member(archive, offset, size) for name, offset, size in places}
        return Sample(row["key"], members)

    def read(self, member: Member) -> bytes:
        """The content of a member.

        Raises:
            InputError: `truncated`, `not_found`: the archive was changed since it was indexed.
        """
        try:
            with member.archive.open("rb") as file:
                file.seek(member.offset)
                content = file.read(member.size)
        except OSError as error:
            raise InputError(
                "not_found", f"{member.archive.name}: {error.strerror}", source=member.archive.name
            ) from None
        if len(content) < member.size:
            raise InputError(
                "truncated",
                f"{member.archive.name}: {len(content)} bytes of {member.size} are there",
                source=member.archive.name,
            )
        return content

    def where(self, index: int) -> str:
        number, own = self._locate(index)
        return f"{self.files[number].name}, sample {self._tables[number][own]['key']}"

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, index - int(self._starts[number])


def _open(file: Path, cache: Path | None) -> tuple[Path, ArrowRows]:
    check_content(file)
    archive = file
    if file.name.lower().endswith((".tar.gz", ".tgz")):
        archive = converted(file, "unzipped", ".tar", lambda out: decompress(file, out), cache)
    index = converted(
        archive, "samples", ".arrow", lambda out: _write_index(file, archive, out), cache
    )
    return archive, ArrowRows(index, original=file)


def _write_index(file: Path, archive: Path, out: Path) -> None:
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingDependencyError("pyarrow", "data") from None
    numbers = pa.list_(pa.int64())
    fields = {
        "key": pa.string(),
        "extensions": pa.list_(pa.string()),
        "offsets": numbers,
        "sizes": numbers,
    }
    schema = pa.schema(fields)
    rows: list[dict[str, Any]] = []
    with pa.OSFile(str(out), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:

        def write() -> None:
            stream.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
            rows.clear()

        for key, name, offset, size in _members(file, archive):
            if not rows or rows[-1]["key"] != key:
                if len(rows) == _WRITTEN_ROWS:
                    write()
                rows.append({"key": key, "extensions": [], "offsets": [], "sizes": []})
            sample = rows[-1]
            if name in sample["extensions"]:
                raise DataError(f"{file}: the sample {key} has two members .{name}")
            sample["extensions"].append(name)
            sample["offsets"].append(offset)
            sample["sizes"].append(size)
        write()


def _members(file: Path, archive: Path) -> Iterator[tuple[str, str, int, int]]:
    """Key, extension, offset and size of what belongs to a sample."""
    try:
        with tarfile.open(archive, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would remember all of them
                found = _NAME.fullmatch(member.name)
                is_inside = not member.name.startswith("/") and ".." not in member.name.split("/")
                if found and is_inside and member.isreg() and not member.issparse():
                    yield found[1], found[2].lower(), member.offset_data, member.size
            end = tar.offset
    except (tarfile.TarError, OSError, UnicodeError, ValueError) as error:
        raise damaged(file, error) from None
    with archive.open("rb") as opened:
        opened.seek(end)
        if opened.read(_BLOCK) != bytes(_BLOCK):
            raise DataError(
                f"{file}: damaged, or cut off: no member and no end of the archive at byte {end}"
            )
