"""Arrow files, mapped into memory; `datasets.save_to_disk` writes them, and `conversion`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.errors import DataError, InputError, MissingDependencyError
from mmembed.tables.content import damaged

__all__ = ["ArrowRows", "no_columns"]

_FILE_MAGIC = b"ARROW1"
_FEW = 6  # rows of a batch, on average, that come faster one by one


class ArrowRows:
    """The rows of one file in the stream or the file format of Arrow IPC.

    Args:
        columns: what rows hold; None = everything.
        original: the file that this one was made from; what people are told.

    Raises:
        DataError: it is damaged, or has not these columns.
    """

    def __init__(
        self, file: Path, *, columns: Sequence[str] | None = None, original: Path | None = None
    ) -> None:
        self.files = (original or file,)
        table = _mapped(file)
        wanted = table.column_names if columns is None else list(columns)
        absent = [column for column in wanted if column not in table.column_names]
        if absent:
            raise no_columns(self.files[0], absent, table.column_names)
        self.columns = tuple(wanted)
        batches = [batch for batch in table.select(wanted).to_batches() if batch.num_rows]
        self._columns = [batch.columns for batch in batches]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a table of {len(self)} rows")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._row(number, index - int(self._starts[number]))

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and not (0 <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of a table of {len(self)}")
        numbers = np.searchsorted(self._starts, wanted, side="right") - 1
        own = wanted - self._starts[numbers]
        order = np.argsort(numbers, kind="stable")
        begins = np.flatnonzero(np.diff(numbers[order], prepend=-1)).tolist()
        if len(begins) * _FEW >= len(wanted):
            return list(map(self._row, numbers.tolist(), own.tolist()))
        rows: list[Any] = [None] * len(wanted)
        for begin, end in zip(begins, [*begins[1:], len(wanted)], strict=True):
            places = order[begin:end]
            many = self._many(int(numbers[places[0]]), own[places])
            for place, row in zip(places.tolist(), many, strict=True):
                rows[place] = row
        return rows

    def _row(self, number: int, own: int) -> dict[str, Any]:
        """Row `own` of batch `number`."""
        try:
            return {
                name: column[own].as_py()
                for name, column in zip(self.columns, self._columns[number], strict=True)
            }
        except UnicodeDecodeError:
            index = int(self._starts[number]) + own
            detail = f"{self.where(index)}: a text that is not UTF-8"
            raise InputError("invalid_text", detail) from None

    def _many(self, number: int, own: np.ndarray) -> list[dict[str, Any]]:
        import pyarrow as pa

        chosen = pa.array(own)
        try:
            cells = [_objects(column.take(chosen)) for column in self._columns[number]]
        except (UnicodeDecodeError, pa.ArrowException):  # one by one, to say which of them it is
            return [self._row(number, row) for row in own.tolist()]
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*cells, strict=True)]

    def where(self, index: int) -> str:
        return f"{self.files[0].name}, row {index + 1}"


def no_columns(file: Path, absent: Sequence[str], found: Sequence[str]) -> DataError:
    return DataError(f"{file} has no column {', '.join(absent)}; it has {', '.join(found)}")


def _mapped(file: Path) -> Any:
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingDependencyError("pyarrow", "data") from None
    try:
        source = pa.memory_map(str(file))
        is_file = source.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        source.seek(0)
        reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
        table = reader.read_all()
        table.validate()
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, error) from None
    return table


def _objects(array: Any) -> list[Any]:
    """`array.to_pylist()`, several times faster for texts and lists of them."""
    import pyarrow as pa

    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        cells: list[Any] = array.to_numpy(zero_copy_only=False).tolist()
        return cells
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and not array.null_count:
        flat = _objects(array.flatten())
        ends = np.cumsum(array.value_lengths().to_numpy()).tolist()
        return [flat[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    cells = array.to_pylist()
    return cells
