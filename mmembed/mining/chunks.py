"""Results of a job in chunks of rows: a killed job goes on, several processes share it.

A chunk is one file that appears whole: a record of its counts, then a line for each output row. All
chunks together are merged into the files of the job, whose bytes depend on no process; a JSON file
that names the job is written last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from mmembed.errors import ConfigError, StoreError
from mmembed.store.durable import (
    dump_record,
    lock_folder,
    parse_record,
    sync_folder,
    write_atomically,
)

__all__ = ["CHUNK_ROWS", "Chunks", "add_counts", "check_part", "finished", "merged"]

CHUNK_ROWS = 4096


class Chunks:
    """Chunks of rows of several data sets in one folder.

    Args:
        sizes: rows of each data set.
        streams: names of the files that each data set gives.
        chunk_rows: of one chunk. No output depends on it.
    """

    def __init__(
        self,
        folder: Path,
        sizes: Sequence[int],
        streams: Sequence[str],
        *,
        chunk_rows: int = CHUNK_ROWS,
    ) -> None:
        self.folder = folder
        self.streams = tuple(streams)
        self.places = [
            (source, begin, min(begin + chunk_rows, size))
            for source, size in enumerate(sizes)
            for begin in range(0, size, chunk_rows)
        ]
        folder.mkdir(parents=True, exist_ok=True)

    def pending(self, part: tuple[int, int]) -> list[tuple[int, int, int]]:
        """(data set, first row, end) of the chunks of a part that are not there."""
        mine = self.places[part[0] :: part[1]]
        return [place for place in mine if not self._path(place).exists()]

    @property
    def is_complete(self) -> bool:
        return all(self._path(place).exists() for place in self.places)

    def write(
        self,
        place: tuple[int, int, int],
        counts: Mapping[str, Any],
        lines: Mapping[str, Sequence[bytes]],
    ) -> None:
        """Keep a finished chunk: its counts and the lines of each stream, newlines included."""
        header = {"counts": counts, "lines": [len(lines[stream]) for stream in self.streams]}
        body = [line for stream in self.streams for line in lines[stream]]
        payload = b"".join([dump_record(header) + b"\n", *body])
        write_atomically(self._path(place), payload)

    def merge(self, source: int, targets: Sequence[Path]) -> dict[str, Any]:
        """Write the streams of a data set, each to its file; returns the sum of the counts."""
        total: dict[str, Any] = {}
        temporary = [path.with_name(f".tmp-{os.getpid()}-{path.name}") for path in targets]
        files = [path.open("wb") for path in temporary]
        try:
            for place in self.places:
                if place[0] == source:
                    total = add_counts(total, self._copy(place, files))
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        finally:
            for file in files:
                file.close()
        for path, target in zip(temporary, targets, strict=True):
            path.replace(target)
            sync_folder(target.parent)
        return total

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _copy(self, place: tuple[int, int, int], files: Sequence[IO[bytes]]) -> dict[str, Any]:
        """Append a chunk's lines to the files of their streams; returns its counts."""
        with self._path(place).open("rb") as chunk:
            header = parse_record(chunk.readline().removesuffix(b"\n"))
            if header is None:
                raise StoreError(f"{self._path(place)} is damaged; delete it and run again")
            for file, count in zip(files, header["lines"], strict=True):
                file.writelines(islice(chunk, count))
        counts: dict[str, Any] = header["counts"]
        return counts

    def _path(self, place: tuple[int, int, int]) -> Path:
        return self.folder / f"{place[0]:04d}-{place[1]:012d}.chunk"


def add_counts(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Sums of numbers, of lists of numbers and of mappings of such, key by key."""
    total = dict(first)
    for key, value in second.items():
        known = total.get(key)
        if known is None:
            total[key] = value
        elif isinstance(value, Mapping):
            total[key] = add_counts(known, value)
        elif isinstance(value, Iterable):
            total[key] = [a + b for a, b in zip(known, value, strict=True)]
        else:
            total[key] = known + value
    return total


def check_part(part: tuple[int, int]) -> None:
    """Raises ConfigError unless 0 <= number < how many."""
    if not 0 <= part[0] < part[1]:
        raise ConfigError(
            f"part {part[0] + 1} of {part[1]} is none; give 1/{max(1, part[1])} and so on"
        )


def finished(path: Path, job: str, outputs: Iterable[Path]) -> dict[str, Any] | None:
    """The record of a job that ended before; None when it is another one, or files are gone."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("job") != job:
        return None
    return record if all(each.is_file() for each in outputs) else None


def merged(
    path: Path,
    job: str,
    chunks: Chunks,
    outputs: Sequence[Sequence[Path]],
    record: Callable[[list[dict[str, Any]]], dict[str, Any]],
) -> dict[str, Any] | None:
    """Merge all chunks, write the record to `path`, and give it; None while some are missing.

    Args:
        outputs: files of each data set, one for each stream.
        record: from the counts of each data set to what is written besides the job's name.
    """
    with lock_folder(path.parent, wait=True):
        done = finished(path, job, [each for paths in outputs for each in paths])
        if done is None and chunks.is_complete:
            counts = [chunks.merge(source, paths) for source, paths in enumerate(outputs)]
            done = {"job": job, **record(counts)}
            write_atomically(path, json.dumps(done, indent=1).encode() + b"\n")
            chunks.remove()
        return done
