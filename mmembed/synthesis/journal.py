"""What a run has paid for and decided: an append-only file, synced before anything is used.

Two kinds of record, one JSON object a line with a checksum. An `answer` is one answer of the server
under the key of its request; a `row` is what became of an input row. A run that is killed at any
moment finds all of it again: an answer that stands here is never asked for again. Requests that
were in flight are not known to have been answered and are asked again, with the same idempotency
key, so that a server that knows such keys does not charge for them twice.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmembed.errors import StoreError
from mmembed.store.durable import dump_record, parse_record, sync_folder

__all__ = ["Journal"]


class Journal:
    """Answers and rows by key. Thread-safe; only their places in the file are held in memory.

    Use it as a context manager, within `lock_folder`.

    Raises:
        StoreError: a damaged line that is not the last one. A torn last line is cut off.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._claimed = threading.Condition(self._lock)
        self._in_flight: set[str] = set()
        self._places: dict[tuple[str, str], tuple[int, int]] = {}
        self.num_answers = 0
        self.input_tokens = 0
        self.output_tokens = 0
        is_new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        if is_new:
            sync_folder(path.parent)
        self._end = self._load()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)

    def answer(self, key: str) -> dict[str, Any] | None:
        """The logged answer; None makes the caller the one who asks: `add_answer` or `give_up`.

        A second caller with the same key waits for the first.
        """
        with self._claimed:
            while key in self._in_flight:
                self._claimed.wait()
            record = self._read("answer", key)
            if record is None:
                self._in_flight.add(key)
            return record

    def add_answer(self, key: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """Log an answer; when this returns it is on disk."""
        with self._claimed:
            try:
                return self._append("answer", key, record)
            finally:
                self._in_flight.discard(key)
                self._claimed.notify_all()

    def give_up(self, key: str) -> None:
        """The request failed; whoever waits for it asks himself."""
        with self._claimed:
            self._in_flight.discard(key)
            self._claimed.notify_all()

    def row(self, key: str) -> dict[str, Any] | None:
        with self._lock:
            return self._read("row", key)

    def has_row(self, key: str) -> bool:
        with self._lock:
            return ("row", key) in self._places

    def add_row(self, key: str, record: Mapping[str, Any]) -> None:
        with self._lock:
            assert ("row", key) not in self._places, key
            self._append("row", key, record)

    def rows(self) -> Iterator[dict[str, Any]]:
        for kind, key in list(self._places):
            if kind == "row":
                record = self.row(key)
                assert record is not None
                yield record

    def _append(self, kind: str, key: str, record: Mapping[str, Any]) -> dict[str, Any]:
        full = {**record, "kind": kind, "key": key}
        line = dump_record(full) + b"\n"
        rest = line
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError:  # a full disk must not leave half a line in front of the next one
            os.ftruncate(self._file, self._end)
            raise
        self._remember(full, len(line))
        return full

    def _remember(self, record: Mapping[str, Any], length: int) -> None:
        place = (self._end, length)
        self._places.setdefault((record["kind"], record["key"]), place)
        self._end += length
        if record["kind"] == "answer":
            self.num_answers += 1
            self.input_tokens += record["input_tokens"]
            self.output_tokens += record["output_tokens"]

    def _read(self, kind: str, key: str) -> dict[str, Any] | None:
        place = self._places.get((kind, key))
        if place is None:
            return None
        record = parse_record(os.pread(self._file, place[1], place[0])[:-1])
        if record is None:
            raise StoreError(f"{self._path} was changed while it was in use")
        return record

    def _load(self) -> int:
        self._end = 0
        with self._path.open("rb") as file:
            size = os.fstat(self._file).st_size
            for number, line in enumerate(file, 1):
                record = parse_record(line[:-1]) if line.endswith(b"\n") else None
                if record is None:
                    if self._end + len(line) < size:
                        raise StoreError(
                            f"{self._path}, line {number} is damaged. Restore the file, or cut it "
                            "off before this line: what stands behind it is asked and paid again"
                        )
                    os.ftruncate(self._file, self._end)
                    os.fsync(self._file)
                    break
                self._remember(record, len(line))
        return self._end
