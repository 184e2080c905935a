"""Which format a file of rows has, by the names of its columns.

`configs/datasets.yaml` names the formats: each is a class that is called with a path and has
`matches(columns, row)`, which sees the columns of a file and its first good row.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from mmembed.config.validation import did_you_mean
from mmembed.data.opening import read_sources
from mmembed.errors import ConfigError, DataError, InputError
from mmembed.tables.files import table_files
from mmembed.tables.local_rows import first_good_row
from mmembed.tables.opening import open_table
from mmembed.tables.rows import RowTable

__all__ = ["Format", "detect_format", "list_formats", "load_format"]


class Format(Protocol):
    """A class of rows: `Format(path, **arguments)` is a `mmembed.datasets.ExampleRows`."""

    def __call__(self, path: str | Path, **arguments: Any) -> Any: ...

    def matches(self, columns: Sequence[str], row: Mapping[str, Any]) -> bool: ...


def list_formats() -> dict[str, str]:
    """Name -> `package.module:Name`, in the order of `configs/datasets.yaml`."""
    return dict(read_sources().formats)


def load_format(name: str) -> Format:
    """The class of a format.

    Raises:
        ConfigError: an unknown name, or a class that cannot be imported.
    """
    formats = list_formats()
    if name not in formats:
        raise ConfigError(
            f"no format {name!r}{did_you_mean(name, formats)}; formats are {', '.join(formats)}"
        )
    module, _, attribute = formats[name].partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"format {name!r} of configs/datasets.yaml is {formats[name]}: {error}"
        ) from None
    return cast(Format, found)


def detect_format(path: str | Path) -> str:
    """The one format whose columns a file has.

    Raises:
        ConfigError: no format, or several; the message has the columns and what to say.
        DataError: the file is not there, or no table, or it has no row that can be read.
    """
    table = open_table(table_files(path))
    columns, row = tuple(table.columns), first_good_row(table)
    found = [name for name in list_formats() if load_format(name).matches(columns, row)]
    if len(found) == 1:
        return found[0]
    if not columns:
        raise DataError(_nothing_readable(path, table))
    has = f"{path} has the columns {', '.join(columns)}"
    if found:
        raise ConfigError(f"{has}, which fit {' and '.join(found)}; choose one with --format")
    raise ConfigError(
        f"{has}, which fit none of the formats {', '.join(list_formats())}; rename columns, or say "
        "what they are with --format"
    )


def _nothing_readable(path: str | Path, table: RowTable) -> str:
    if not len(table):
        return f"{path} has no rows"
    try:
        table[0]
    except InputError as error:
        return f"{path}: none of its {len(table):,} rows can be read; the first: {error.detail}"
    return f"{path}: its rows have no columns"
