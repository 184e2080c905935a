"""Rows of Parquet and Arrow tables as items: the columns are the keys of an item file, and `id`.

Read by `item_sources.py`. A data set that `datasets` saved on disk is a folder of Arrow tables;
its pictures and other media are structs of `bytes` and `path`. Other columns are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from mmembed.errors import ConfigError
from mmembed.inputs.item_files import FileItem, file_item
from mmembed.search.vector_files import import_pyarrow
from mmembed.types import ITEM_KEYS

__all__ = ["Table"]

_CONTENT = ("text", "image", "video", "pdf", "page", "content")
_MEDIA = {"bytes", "path"}
_BATCH_ROWS = 256
_MEDIA_BATCH_ROWS = 16  # each may hold megabytes
_NEAR = 65_536  # rows that are passed over rather than beginning the row group again


class Table:
    """A `.parquet` or `.arrow` file, read from front to back in small pieces.

    Attributes:
        num_rows: of the file.
        columns: those that are read.
        ignored: the names of the others.

    Raises:
        ConfigError: the file cannot be read, or no column holds an item.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        pyarrow = import_pyarrow()
        self._parquet: Any = None
        try:
            if path.suffix == ".parquet":
                import pyarrow.parquet as parquet

                self._parquet = parquet.ParquetFile(path)
                self.num_rows: int = self._parquet.metadata.num_rows
                schema = self._parquet.schema_arrow
            else:
                self._table = _open_arrow(path)
                self.num_rows = self._table.num_rows
                schema = self._table.schema
        except (OSError, pyarrow.ArrowException) as error:
            raise ConfigError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
        names = schema.names
        known = ITEM_KEYS | {"id"}
        self.columns = [name for name in names if name in known]
        self.ignored = [name for name in names if name not in known]
        if not set(self.columns) & set(_CONTENT):
            raise ConfigError(
                f"{path} has the columns {', '.join(names)}; an item needs one of "
                f"{', '.join(_CONTENT)}. Rename a column"
            )
        plain = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_integer)
        kinds = [schema.field(name).type for name in self.columns]
        only_text = all(any(is_plain(kind) for is_plain in plain) for kind in kinds)
        self._batch_rows = _BATCH_ROWS if only_text else _MEDIA_BATCH_ROWS
        self._position = -1
        self._rest: Iterator[dict[str, Any]] = iter(())

    def items(
        self, start: int, count: int, *, first_number: int, prefix: str = ""
    ) -> list[FileItem]:
        """Rows from `start` on; one without an id is called by its number, behind `prefix`."""
        if self._position < 0 or not 0 <= start - self._position <= _NEAR:
            self._position, self._rest = start, self._from(start, self.columns)
        ahead, self._position = start - self._position, -1  # until the rows are here
        try:
            rows = list(islice(self._rest, ahead, ahead + count))
        except (OSError, import_pyarrow().ArrowException) as error:
            reason = str(error).splitlines()[0]
            where = f"rows {start + 1:,} to {start + count:,}"
            raise OSError(f"{self.path}: {where} cannot be read: {reason}") from error
        self._position = start + count
        return [
            file_item(
                _name(row.pop("id", None), f"{prefix}{number}"),
                {key: _medium(value) for key, value in row.items() if value is not None},
                folder=self.path.parent,
            )
            for number, row in enumerate(rows, first_number + start)
        ]

    def names(self, *, first_number: int, prefix: str = "") -> Iterator[str]:
        """The ids of all rows, as `items` gives them."""
        if "id" not in self.columns:
            yield from (f"{prefix}{first_number + place}" for place in range(self.num_rows))
            return
        for number, row in enumerate(self._from(0, ["id"]), first_number):
            yield _name(row["id"], f"{prefix}{number}")

    def _from(self, start: int, columns: list[str]) -> Iterator[dict[str, Any]]:
        """Rows from `start` to the end; whole row groups before it are not decoded."""
        if self._parquet is None:
            for begin in range(start, self.num_rows, self._batch_rows):
                yield from self._table.slice(begin, self._batch_rows).select(columns).to_pylist()
            return
        metadata = self._parquet.metadata
        group = 0
        while group < metadata.num_row_groups and start >= metadata.row_group(group).num_rows:
            start -= metadata.row_group(group).num_rows
            group += 1
        for number in range(group, metadata.num_row_groups):  # each alone: one may be damaged
            for batch in self._parquet.iter_batches(
                self._batch_rows, row_groups=[number], columns=columns
            ):
                if start < len(batch):
                    yield from batch.slice(start).to_pylist()
                start = max(0, start - len(batch))


def _open_arrow(path: Path) -> Any:
    """The table of an Arrow file or stream, mapped into memory."""
    import pyarrow

    with path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"
    mapped = pyarrow.memory_map(str(path))
    return (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(mapped).read_all()


def _name(value: Any, default: str) -> str:
    return default if value is None else str(value)


def _medium(value: Any) -> Any:
    """A struct of a data set as the bytes or the path that it holds."""
    if isinstance(value, Mapping) and set(value) == _MEDIA:
        return value["path"] if value["bytes"] is None else value["bytes"]
    return [_medium(entry) for entry in value] if isinstance(value, list) else value
