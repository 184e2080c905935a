"""Rows as a Lance table keeps them, and the record that says which space its vectors are of.

    Row + vector -> row_table -> Lance -> parse_row

`row` is the whole row as JSON; the other columns exist to be filtered, searched or found by. The
record lies in the schema, the settings in the metadata of the column `id`, so both are part of
every version of the table and need no file of their own.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmembed.errors import StoreError
from mmembed.search.lance_filters import stored_text
from mmembed.search.rows import Row, dump_row, searchable_text
from mmembed.search.words import document_tokens
from mmembed.store.durable import dump_record, parse_record

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_record", "read_settings", "row_table", "settings_update", "table_schema"]

_FORMAT = "mmembed-lance/1"
_RECORD, _SETTINGS = "mmembed", "mmembed:settings"
# Without it two writers that insert the same new id both succeed (measured, lancedb 0.40).
_PRIMARY_KEY = {"lance-schema:unenforced-primary-key": "true"}


def table_schema(fingerprint: str, dimension: int) -> pa.Schema:
    """The columns, and the space in their metadata."""
    import pyarrow as pa

    record = dump_record(
        {
            "format": _FORMAT,
            "fingerprint": fingerprint,
            "dimension": dimension,
            "metric": "inner_product",
            "table": uuid.uuid4().hex,  # tells a table from another one in the same place
        }
    )
    texts = ("path", "kind", "suffix", "key", "words", "row")
    numbers = ("page", "modified", "duration")
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False, metadata=_PRIMARY_KEY),
            *(pa.field(name, pa.string(), nullable=False) for name in texts),
            *(pa.field(name, pa.float64()) for name in numbers),
            pa.field("vector", pa.list_(pa.float32(), dimension), nullable=False),
        ],
        metadata={_RECORD: record},
    )


def read_record(schema: pa.Schema, owner: str) -> dict[str, Any]:
    """`fingerprint`, `dimension` and what else names a table.

    Raises:
        StoreError: somebody else's table, a damaged record, or another version's.
    """
    line = (schema.metadata or {}).get(_RECORD.encode())
    if line is None:
        raise StoreError(f"{owner} is a Lance table, but no index of mmembed")
    record = parse_record(line)
    if record is None:
        raise StoreError(f"{owner} is damaged (its record); restore it or index the folder again")
    if record.get("format") != _FORMAT:
        raise StoreError(
            f"{owner} has format {record.get('format')!r}; this version reads {_FORMAT!r}"
        )
    return record


def read_settings(schema: pa.Schema) -> dict[str, Any]:
    """What `settings_update` has stored."""
    line = (schema.field("id").metadata or {}).get(_SETTINGS.encode())
    settings: dict[str, Any] = {} if line is None else json.loads(line)
    return settings


def settings_update(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The argument of Lance's `update_field_metadata`."""
    return {"path": "id", "metadata": {_SETTINGS: json.dumps(settings, sort_keys=True)}}


def row_table(rows: Sequence[Row], vectors: np.ndarray, schema: pa.Schema) -> pa.Table:
    """Rows with their vectors, (N, D) float32."""
    import pyarrow as pa

    def text(values: list[str]) -> pa.Array:
        return pa.array(values, type=pa.string())

    def number(values: list[Any]) -> pa.Array:
        return pa.array(values, type=pa.float64())

    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    return pa.Table.from_arrays(
        [
            text([stored_text(row.id) for row in rows]),
            text([stored_text(row.path) for row in rows]),
            text([row.kind for row in rows]),
            text([stored_text(row.suffix) for row in rows]),
            text([row.key for row in rows]),
            text([" ".join(document_tokens(searchable_text(row))) for row in rows]),
            text([dump_row(row).decode("ascii") for row in rows]),
            number([None if row.page is None else float(row.page) for row in rows]),
            number([row.modified for row in rows]),
            number([row.duration_seconds for row in rows]),
            pa.FixedSizeListArray.from_arrays(flat, schema.field("vector").type.list_size),
        ],
        schema=schema,
    )
