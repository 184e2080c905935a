"""What a table is to those who read it: rows by number, each with the place where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

__all__ = ["RowTable"]


class RowTable(Protocol):
    """Rows of one or several files, by number; nothing is held in memory that can be read again.

    Safe to use from several threads and in forked processes.
    """

    @property
    def files(self) -> tuple[Path, ...]: ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns; for JSON lines the keys of the first good row."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One row.

        Raises:
            InputError: the row cannot be read (`invalid_text`: not UTF-8, `corrupt`: not JSON,
                `invalid_type`: no object); the message begins with `where(index)`.
        """
        ...

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Many rows at once; faster than one by one."""
        ...

    def where(self, index: int) -> str:
        """For people: `train.jsonl, line 17`; files without lines have rows, from 1."""
        ...
