"""The first rows of a table, in a file of the same format and layout as the whole."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from mmembed.errors import DataError, MissingDependencyError

__all__ = ["is_small_text", "is_table", "sample_name", "write_sample"]

_SUFFIXES = re.compile(r"\.(?:parquet|(?:jsonl|ndjson|json|csv|tsv)(?:\.gz)?)$")
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?:-[0-9a-f]+)?(?=\.)")
_TEXTS = (".md", ".txt", ".yaml", ".yml", ".json", ".py")
_SMALL = 1 << 20
_READ = 1 << 16


def is_table(name: str) -> bool:
    """Whether a file, by its name, holds rows that can be cut off."""
    return _SUFFIXES.search(name.lower()) is not None


def is_small_text(name: str, size: int) -> bool:
    """Whether a file is kept whole in a sample: what describes the data."""
    return name.lower().endswith(_TEXTS) and size <= _SMALL


def sample_name(name: str) -> str:
    """The name of its sample: the first of many shards becomes the only one."""
    return _SHARD.sub("-00000-of-00001", name)


def write_sample(opened: BinaryIO, target: Path, rows: int) -> None:
    """The first rows of a table; all of it where it has fewer.

    Args:
        opened: the table; parquet is read by pieces from its end, the others from the beginning.
        target: its name says the format.

    Raises:
        DataError: it is damaged, or of another format than its name says.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        if target.suffix == ".parquet":
            _cut_parquet(opened, part, rows)
        else:
            _cut_text(opened, part, target.name.lower(), rows)
    except (ValueError, EOFError, OSError, csv.Error) as error:
        part.unlink(missing_ok=True)
        raise DataError(f"{target.name}: no rows can be read of it: {error}") from None
    part.replace(target)


def _cut_parquet(opened: BinaryIO, target: Path, rows: int) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingDependencyError("pyarrow", "evaluation") from None
    table = pq.ParquetFile(opened, pre_buffer=False)
    with pq.ParquetWriter(target, table.schema_arrow) as writer:
        left = rows
        for batch in table.iter_batches(min(rows, 256)):
            writer.write_table(pa.Table.from_batches([batch.slice(0, left)]))
            left -= batch.num_rows
            if left <= 0:
                break


def _cut_text(opened: BinaryIO, target: Path, name: str, rows: int) -> None:
    zipped = name.endswith(".gz")
    kind = Path(name.removesuffix(".gz")).suffix
    source: Any = gzip.GzipFile(fileobj=opened) if zipped else opened
    with gzip.open(target, "wb") if zipped else target.open("wb") as sink:
        if kind == ".json":
            _cut_json(source, sink, rows)
        elif kind == ".csv":
            _cut_csv(source, sink, rows + 1)  # the header; a row more where there is none
        elif kind == ".tsv":
            sink.writelines(islice(source, rows + 1))
        else:
            sink.writelines(islice(source, rows))


def _cut_csv(source: Any, sink: Any, rows: int) -> None:
    """Cells may hold line breaks."""
    text = io.TextIOWrapper(source, encoding="utf-8", newline="")
    out = io.TextIOWrapper(sink, encoding="utf-8", newline="", write_through=True)
    csv.writer(out, lineterminator="\n").writerows(islice(csv.reader(text), rows))
    out.detach()
    text.detach()


def _cut_json(source: Any, sink: Any, rows: int) -> None:
    """The first entries of a list, without reading the rest; anything else whole, or by lines."""
    head = source.read(_READ)
    if not head.lstrip().startswith(b"["):
        lines = head.split(b"\n")
        if len(lines) > 1 and _is_object(lines[0]):
            source = io.BufferedReader(_Chained(head, source))
            sink.writelines(islice(source, rows))
            return
        sink.write(head)
        while piece := source.read(_READ):
            sink.write(piece)
        return
    entries = list(islice(_entries(head, source), rows))
    sink.write(json.dumps(entries, ensure_ascii=False, indent=1).encode("utf-8"))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _entries(head: bytes, source: Any) -> Iterator[Any]:
    decode = codecs.getincrementaldecoder("utf-8")().decode
    text = decode(head).lstrip()[1:]
    parser = json.JSONDecoder()
    at_end = False
    while True:
        text = text.lstrip().removeprefix(",").lstrip()
        if text.startswith("]"):
            return
        try:
            entry, end = parser.raw_decode(text)
        except ValueError:
            end = len(text)
        # A number at the very end may go on in the next piece; so may what cannot be read yet.
        if end < len(text):
            yield entry
            text = text[end:]
            continue
        if at_end:
            raise ValueError("the list has no end")
        piece = source.read(_READ)
        at_end = not piece
        text += decode(piece, at_end)


class _Chained(io.RawIOBase):
    """Bytes that were read already, then the rest."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(piece) :] if self._head else b""
        buffer[: len(piece)] = piece
        return len(piece)
