"""Rows of a user's own files as training examples: what all formats share.

A format is a subclass that says how a row becomes an example. Unlike published data these have no
card, and rows without an id keep none: equal queries are known by what they say.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from mmembed.errors import ConfigError, InputError
from mmembed.tables.examples import RowsOfTable
from mmembed.tables.files import table_files
from mmembed.tables.opening import open_table
from mmembed.tables.rows import RowTable
from mmembed.types import ContrastiveExample, Task

__all__ = ["LocalRows", "first_good_row"]


class LocalRows(RowsOfTable):
    """An `ExampleRows`; row i is `parse(table[i])`.

    Args:
        path: a file, a folder of `datasets.save_to_disk`, or one with the shards of one table.
        task: of all rows; None = what `task_of` says of the first one that can be read.
        media_root: folder of relative media paths; that of the file if None.
        name: the name of the file if None.
        split: of a folder with several.

    Raises:
        DataError: no such file, or none that can be read.
        ConfigError: an unknown task.
    """

    revision = "local"
    license = "unknown"

    def __init__(
        self,
        path: str | Path,
        *,
        task: Task | None = None,
        media_root: str | Path | None = None,
        name: str | None = None,
        split: str = "train",
    ) -> None:
        path = Path(_checked(path, "path"))
        if task is not None and task not in get_args(Task):
            raise ConfigError(f"task {task!r} is unknown; tasks are {', '.join(get_args(Task))}")
        if media_root is not None:
            _checked(media_root, "media_root")
        if name is not None and not isinstance(name, str):
            raise ConfigError(f"name is {name!r}; give a text")
        self.name = name or path.name.split(".")[0]
        self.table = open_table(table_files(path, split))
        folder = path if path.is_dir() else path.parent
        self.media_root = folder if media_root is None else Path(media_root)
        self.is_task_given = task is not None
        self.task: Task = task or self.task_of(first_good_row(self.table))

    def task_of(self, row: Mapping[str, Any]) -> Task:
        """The task of a file that begins with this row."""
        return "retrieval"

    @abstractmethod
    def parse(self, row: dict[str, Any]) -> ContrastiveExample:
        """Raises InputError, without the place of the row."""

    def _example(self, index: int, row: dict[str, Any]) -> ContrastiveExample:
        try:
            return self.parse(row)
        except InputError as error:
            raise InputError(
                error.code,
                f"{self.table.where(index)}: {error.detail}",
                part=error.part,
                source=error.source,
            ) from None


def _checked(path: Any, argument: str) -> Any:
    if not isinstance(path, str | Path):
        raise ConfigError(f"{argument} is {path!r}; give a path")
    return path


def first_good_row(table: RowTable) -> Mapping[str, Any]:
    """The first row that can be read; empty when there is none."""
    for index in range(len(table)):
        try:
            return table[index]
        except InputError:
            continue
    return {}
