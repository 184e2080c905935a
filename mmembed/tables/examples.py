"""The rows of a table as training examples: what the families of `data_adapters` return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from mmembed.datasets import DatasetCard
from mmembed.errors import InputError
from mmembed.tables.rows import RowTable
from mmembed.types import ContrastiveExample

__all__ = ["Parse", "RowsOfTable", "TableRows"]

Parse: TypeAlias = Callable[[dict[str, Any], str], ContrastiveExample]


class RowsOfTable(ABC):
    """Row i is what `_example` makes of row i of a table."""

    table: RowTable

    @property
    def files(self) -> tuple[Path, ...]:
        return self.table.files

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> ContrastiveExample:
        return self._example(index, self.table[index])

    def take(self, indices: Sequence[int]) -> list[ContrastiveExample | InputError]:
        """An example, or why there is none, for each of many rows; faster than one by one."""
        try:
            rows: Sequence[Any] = self.table.take(indices)
        except InputError:
            rows = [None] * len(indices)
        examples: list[ContrastiveExample | InputError] = []
        for index, row in zip(indices, rows, strict=True):
            try:
                row = self.table[index] if row is None else row
                examples.append(self._example(index, row))
            except InputError as error:
                examples.append(error)
        return examples

    def where(self, index: int) -> str:
        return self.table.where(index)

    @abstractmethod
    def _example(self, index: int, row: dict[str, Any]) -> ContrastiveExample:
        """Raises InputError with the place of the row."""


class TableRows(RowsOfTable):
    """An `ExampleRows`: row i is `parse(table[i], table.where(i))`.

    Args:
        card: gives name, task, revision and licence.
        parse: makes an example of a row, or raises InputError with the place, its second argument.
            An example without `query_id` gets `name/index`.
        document_ids: the `positive_ids` of a row of the table, where they are cheaper than the
            example; see `mmembed.data.adapter.DatasetAdapter`.
        sibling_key: of a row of the table, see `mmembed.datasets.ExampleRows`.
    """

    def __init__(
        self,
        card: DatasetCard,
        table: RowTable,
        parse: Parse,
        *,
        document_ids: Callable[[dict[str, Any]], tuple[str, ...]] | None = None,
        sibling_key: Callable[[dict[str, Any]], str] | None = None,
    ) -> None:
        self.card = card
        self.table = table
        self.name, self.task = card.name, card.task
        self.revision, self.license = card.revision, card.license
        self._parse = parse
        if document_ids is not None:
            self.document_ids = lambda index: document_ids(table[index])
        if sibling_key is not None:
            self.sibling_key = lambda index: sibling_key(table[index])

    def _example(self, index: int, row: dict[str, Any]) -> ContrastiveExample:
        example = self._parse(row, self.table.where(index))
        if example.query_id:
            return example
        return replace(example, query_id=f"{self.name}/{index}")
