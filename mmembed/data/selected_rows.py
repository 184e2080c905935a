"""Some rows of an adapter as an adapter of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmembed.data.adapter import DatasetAdapter
from mmembed.types import ContrastiveExample, Task

__all__ = ["SelectedRows"]

_OPTIONAL = ("document_ids", "sibling_key", "where")


class SelectedRows:
    """Row `i` is row `positions[i]` of `adapter`; it can do what the adapter can."""

    def __init__(self, adapter: DatasetAdapter, positions: Sequence[int]) -> None:
        self._adapter = adapter
        self._positions = positions
        self.name = adapter.name
        self.task: Task = adapter.task
        self.revision, self.license = adapter.revision, adapter.license
        self.files = getattr(adapter, "files", ())
        for name in _OPTIONAL:
            if hasattr(adapter, name):
                setattr(self, name, self._of_row(getattr(adapter, name)))

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> ContrastiveExample:
        return self._adapter[int(self._positions[index])]

    def _of_row(self, method: Any) -> Any:
        return lambda index: method(int(self._positions[index]))
