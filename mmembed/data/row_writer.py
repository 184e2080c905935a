"""Writes the rows that `row_files` reads: JSON lines that survive a crash, and parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mmembed.data.adapter import check_example
from mmembed.data.row_items import MediaFolder, MediaMode, cell_of_item, item_to_json
from mmembed.errors import ConfigError, DataError, InputError, MissingDependencyError
from mmembed.store.durable import sync_folder
from mmembed.types import ContrastiveExample

__all__ = ["FIELDS", "ParquetRowWriter", "RowWriter", "row_line"]

FIELDS = (
    "id",
    "query",
    "positives",
    "negatives",
    "positive_ids",
    "label",
    "negative_labels",
    "scores",
    "task",
    "meta",
)
_LINES = (".jsonl", ".ndjson")
_GROUP = 4096  # rows of parquet that are held in memory


class RowWriter:
    """Appends rows to a file of JSON lines, each in one write, so that a crash loses at most one.

    Args:
        path: `.jsonl` or `.ndjson`; another path is a folder, and the file its `rows.jsonl`.
        media: see `mmembed.data.row_items.MediaFolder`.

    Raises:
        ConfigError: `path` names a file of another kind.
    """

    def __init__(self, path: str | Path, *, media: MediaMode = "reference") -> None:
        path = Path(path)
        if path.suffix not in _LINES:
            if path.suffix in (".json", ".parquet", ".gz", ".csv", ".tsv") or path.is_file():
                raise ConfigError(
                    f"{path}: rows are appended to {' or '.join(_LINES)}; make other files of it "
                    "with `mmembed data convert`"
                )
            path = path / "rows.jsonl"
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.num_rows = 0
        self._media = MediaFolder(path.parent, media)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._may_append = os.fstat(self._file).st_size == 0

    def resume(self) -> int:
        """Go on with a file that is there; how many rows it has.

        What stands behind its last whole row, torn by a crash, is removed.
        """
        rows, end, position = 0, 0, 0
        with self.path.open("rb") as file:
            for line in file:
                position += len(line)
                if line.endswith(b"\n") and _is_object(line):
                    rows, end = rows + 1, position
        if end < position:
            os.ftruncate(self._file, end)
        self.num_rows, self._may_append = rows, True
        return rows

    def write(self, example: ContrastiveExample, /, **meta: Any) -> None:
        """Append one row; `meta` is kept under that name.

        Raises:
            DataError: the file had rows and `resume` was not called.
            ConfigError: what `check_example` refuses.
            InputError: an item or `meta` cannot be written as JSON.
        """
        if not self._may_append:
            raise DataError(
                f"{self.path} has rows already; call resume() to append to them, or delete it"
            )
        line = row_line(example, meta, self._media)
        while line:
            line = line[os.write(self._file, line) :]
        self.num_rows += 1

    def sync(self) -> None:
        """Make what was written survive a loss of power."""
        os.fsync(self._file)

    def close(self) -> None:
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1
            sync_folder(self.path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.close()


class ParquetRowWriter:
    """Writes a finished set as parquet: the same fields as columns, items as text or JSON.

    The file is there when all of it is: an error in the `with` block leaves none.
    """

    def __init__(self, path: str | Path, *, media: MediaMode = "reference") -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise MissingDependencyError("pyarrow", "train") from None
        self.path = Path(path)
        if self.path.suffix != ".parquet":
            raise ConfigError(f"{path}: the name of a parquet file ends in .parquet")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.num_rows = 0
        self._media = MediaFolder(self.path.parent, media)
        text, texts = pa.string(), pa.list_(pa.string())
        kinds = {"scores": pa.list_(pa.float64())}
        listed = ("positives", "negatives", "positive_ids", "negative_labels")
        self._schema = pa.schema(
            [(name, kinds.get(name, texts if name in listed else text)) for name in FIELDS]
        )
        self._rows: list[dict[str, Any]] = []
        self._temporary = self.path.with_name(f".tmp-{os.getpid()}-{self.path.name}")
        self._file = pq.ParquetWriter(self._temporary, self._schema)

    def write(self, example: ContrastiveExample, /, **meta: Any) -> None:
        """Add one row; errors as `RowWriter.write`."""
        record = _record(example, meta, self._media)
        for name in ("positives", "negatives"):
            if name in record:
                record[name] = [cell_of_item(value) for value in record[name]]
        record["query"] = cell_of_item(record["query"])
        if "meta" in record:
            record["meta"] = _dumped(record["meta"])
        self._rows.append(record)
        self.num_rows += 1
        if len(self._rows) == _GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.close()
        self._temporary.replace(self.path)
        sync_folder(self.path.parent)

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()
            self._temporary.unlink(missing_ok=True)


def row_line(example: ContrastiveExample, meta: Mapping[str, Any], media: MediaFolder) -> bytes:
    """One row as `RowWriter` writes it, for those who write whole files; errors as its `write`."""
    return (_dumped(_record(example, meta, media)) + "\n").encode("utf-8")


def _record(
    example: ContrastiveExample, meta: Mapping[str, Any], media: MediaFolder
) -> dict[str, Any]:
    """The fields of a row, in the order of `FIELDS`, without those that say nothing."""
    check_example(example, f"the row {example.query_id!r}")
    record = {
        "id": example.query_id,
        "query": item_to_json(example.query, media),
        "positives": [item_to_json(item, media) for item in example.positives],
        "negatives": [item_to_json(item, media) for item in example.hard_negatives],
        "positive_ids": list(example.positive_ids),
        "label": example.label,
        "negative_labels": list(example.negative_labels),
        "scores": None if example.scores is None else list(example.scores),
        "task": example.task,
        "meta": dict(meta),
    }
    empty: tuple[Any, ...] = (None, [], {})
    kept = {name: value for name, value in record.items() if value not in empty}
    return kept if example.query_id else {name: kept[name] for name in kept if name != "id"}


def _dumped(value: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError("invalid_text", "the row has a text that is not Unicode") from None
    except ValueError:
        raise InputError("nonfinite", "the row has a number that is not finite") from None
    except (TypeError, RecursionError) as error:
        raise InputError("invalid_type", f"the row cannot be written as JSON: {error}") from None
    return text


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
