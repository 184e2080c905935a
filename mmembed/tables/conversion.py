"""Files that can only be read from the front, made once into files that are read row by row.

Parquet becomes an Arrow stream without compression; a list in JSON, CSV, TSV and what is compressed
become JSON lines. A row of CSV that cannot be read becomes a line that says why.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mmembed.errors import DataError, MissingDependencyError
from mmembed.tables.arrow_rows import no_columns
from mmembed.tables.cache import cache_folder, made_once
from mmembed.tables.content import damaged

__all__ = ["converted", "decompress", "write_arrow", "write_cells", "write_objects"]

_VERSION = "1"  # of what is written; another version is another file
_BATCH_BYTES = 1 << 25
_BATCH_ROWS = 10_000
_SPACE = re.compile(r"[ \t\r\n]*")
_MOST_CELL = 1 << 30
_ZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)


def converted(
    file: Path, key: str, suffix: str, write: Callable[[Path], None], cache: Path | None
) -> Path:
    """What `write(path)` makes of a file as it is now; written once.

    Args:
        key: everything else that the result depends on.
        cache: folder of such files; `tables` in the user's cache if None.
    """
    if cache is None:
        user = cache_folder()
        if user is None:
            raise DataError(
                f"{file} must be converted to be read row by row, and there is no folder for that; "
                "set MMEMBED_CACHE to one"
            )
        cache = user / "tables"
    state = file.stat()
    parts = (_VERSION, file.resolve(), state.st_size, state.st_mtime_ns, key, suffix)
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:20]
    stem = re.sub(r"[^\w-]", "_", file.name.partition(".")[0])[:40]
    return made_once(cache / f"{stem}-{digest}{suffix}", write)


def decompress(file: Path, out: Path) -> None:
    with gzip.open(file) as source, out.open("wb") as target:
        try:
            shutil.copyfileobj(source, target, 1 << 20)
        except _ZIP_ERRORS as error:
            raise damaged(file, error) from None


def write_arrow(file: Path, out: Path, columns: Sequence[str] | None) -> None:
    """A parquet file as a stream, some megabytes at a time."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingDependencyError("pyarrow", "data") from None
    try:
        with pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as table:
            schema = table.schema_arrow
            absent = [column for column in columns or () if column not in schema.names]
            if absent:
                raise no_columns(file, absent, schema.names)
            groups = [table.metadata.row_group(n) for n in range(table.num_row_groups)]
            a_row = max((g.total_byte_size // max(g.num_rows, 1) for g in groups), default=0)
            size = min(_BATCH_ROWS, max(16, _BATCH_BYTES // max(a_row, 1)))
            wanted = pa.schema([schema.field(c) for c in columns]) if columns else schema
            batches = table.iter_batches(size, columns=columns and list(columns))
            with pa.OSFile(str(out), "wb") as sink, pa.ipc.new_stream(sink, wanted) as stream:
                for batch in batches:
                    stream.write_batch(batch.select(wanted.names))
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of the file
        raise damaged(file, error) from None


def write_objects(file: Path) -> Callable[[Path], None] | None:
    """What writes the entries of a list in JSON as lines; None for a file that has lines already.

    Raises:
        DataError: the file holds one object, or something else.
    """
    with _text(file) as text:
        start = text.read(1 << 16).lstrip("\ufeff \t\r\n")
        if start.startswith("["):
            return lambda out: _write_list(file, out)
    with _text(file) as text:
        first = next((line for line in text if line.strip("\ufeff \t\r\n")), "{}")
    try:
        found = json.loads(first.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        found = None
    if start and not isinstance(found, dict):
        raise DataError(f"{file}: not JSON lines and not a list of objects")
    return None


def _write_list(file: Path, out: Path) -> None:
    """Entries as they are written, but on one line: between quotation marks there is no newline."""
    with _text(file) as source:
        text = source.read()
    decoder = json.JSONDecoder()

    def space(at: int) -> int:
        found = _SPACE.match(text, at)
        assert found
        return found.end()

    at = space(text.index("[") + 1)
    with out.open("w", encoding="utf-8", newline="\n") as target:
        while not text.startswith("]", at):
            try:
                _, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                raise damaged(file, error) from None
            target.write(re.sub(r"[\r\n]", " ", text[at:end]) + "\n")
            at = space(end)
            if text.startswith(",", at):
                at = space(at + 1)
            elif not text.startswith("]", at):
                raise DataError(f"{file}: damaged: the list has no end")
    if space(at + 1) != len(text):
        raise DataError(f"{file}: damaged: something stands behind the list")


def write_cells(
    file: Path, out: Path, separator: str, names: Sequence[str] | None, quoted: bool
) -> None:
    """Rows of CSV or TSV as objects of texts; one of another length as a text that says so."""
    with (
        _text(file, "surrogateescape", "" if quoted else "\n") as source,
        out.open("w", encoding="utf-8", newline="\n") as target,
    ):
        if source.read(1) != "\ufeff":
            source.seek(0)
        rows = _quoted_rows(source, separator) if quoted else _plain_rows(source, separator)
        header = list(names) if names is not None else next(rows, [])
        if isinstance(header, str):
            raise DataError(f"{file}: the header: {header}")
        if len(set(header)) < len(header):
            raise DataError(f"{file}: the header names a column twice: {', '.join(header)}")
        for row in rows:
            target.write(_line(header, row) + "\n")


def _line(header: Sequence[str], row: list[str] | str) -> str:
    if isinstance(row, str):
        return json.dumps(row)
    if len(row) != len(header):
        return json.dumps(
            f"{len(row)} cells where there are {len(header)} columns ({', '.join(header)})"
        )
    line = json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps("not UTF-8")
    return line


def _quoted_rows(source: IO[str], separator: str) -> Iterator[list[str] | str]:
    before = csv.field_size_limit(_MOST_CELL)
    try:
        reader = csv.reader(source, delimiter=separator, strict=True)
        while True:
            begin = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                yield f"not CSV, {_lines(begin, reader.line_num)} of the file: {error}"
                continue
            if row is None:
                return
            if row:
                yield row
    finally:
        csv.field_size_limit(before)


def _lines(begin: int, end: int) -> str:
    return f"line {begin}" if end <= begin else f"lines {begin} to {end}"


def _plain_rows(source: IO[str], separator: str) -> Iterator[list[str] | str]:
    for line in source:
        text = line.rstrip("\r\n")
        if text:
            yield text.split(separator)


@contextmanager
def _text(file: Path, errors: str = "strict", newline: str = "\n") -> Iterator[IO[str]]:
    """A text file, zipped or not; damage that shows while the block reads is a DataError."""
    is_zipped = file.name.lower().endswith(".gz")
    opened: Any = gzip.open(file) if is_zipped else file.open("rb")
    with io.TextIOWrapper(opened, encoding="utf-8", errors=errors, newline=newline) as text:
        try:
            yield text
        except _ZIP_ERRORS as error:
            raise damaged(file, error) from None
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8: {error}") from None
