"""The rows that a pipeline works on: a data set, or documents alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmembed.data.lock import unplaced
from mmembed.data.opening import open_datasets
from mmembed.errors import ConfigError, InputError
from mmembed.inputs.contrastive import content_id
from mmembed.inputs.item_files import FileItem, line_value, lines_of, read_items
from mmembed.synthesis.texts import language_of
from mmembed.types import ContrastiveExample, MultimodalInput, Text

__all__ = ["InputRow", "InputRows", "open_rows"]


@dataclass(frozen=True)
class InputRow:
    """One row: its items, and what templates see of it (`pipeline.ROW_FIELDS`).

    Attributes:
        key: of the row in the journal: its place in the input.
    """

    key: str
    id: str
    query: MultimodalInput | None
    document: MultimodalInput
    negative: MultimodalInput | None
    example: ContrastiveExample | None
    label: str | None

    def fields(self) -> dict[str, Any]:
        document = _text(self.document)
        return {
            "query": _text(self.query),
            "document": document,
            "negative": _text(self.negative),
            "label": self.label,
            "language": language_of(document),
        }

    def digest(self) -> str:
        """Of id, texts and names of media files: whether the row is the one that was worked on."""
        items = (self.query, self.document, self.negative)
        said = [
            *(self.id, self.label),
            *(None if item is None else content_id(unplaced(item)) for item in items),
        ]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


class InputRows:
    """Rows of `open_rows` by number; a bad one raises `InputError`, the others stay usable."""

    def __init__(
        self, name: str, rows: Sequence[tuple[str, Any, int]], documents: Sequence[FileItem] = ()
    ) -> None:
        self.name = name
        self._rows = rows
        self._documents = documents

    def __len__(self) -> int:
        return len(self._documents) or len(self._rows)

    def __getitem__(self, index: int) -> InputRow:
        if self._documents:
            entry = self._documents[index]
            if isinstance(entry.item, InputError):
                raise entry.item
            return _row(index, entry.id, None, entry.item)
        name, adapter, number = self._rows[index]
        example: ContrastiveExample = adapter[number]
        return _row(index, example.query_id or f"{name}/{number}", example)

    def select(self, limit: int | None) -> range:
        return range(len(self) if limit is None else min(limit, len(self)))


def open_rows(
    target: str,
    *,
    root: Path = Path("data"),
    format: str | None = None,
    arguments: Sequence[str] = (),
) -> InputRows:
    """The rows of what `open_datasets` opens, or of a `.jsonl` of items, each a document.

    Raises:
        ConfigError, DataError: see `open_datasets`.
    """
    path = Path(target).expanduser()
    if format is None and path.suffix == ".jsonl" and path.is_file() and _holds_items(path):
        return InputRows(path.stem, (), read_items(path))
    opened = open_datasets(target, root=root, format=format, arguments=arguments)
    rows = [(one.name, one.adapter, number) for one in opened for number in range(len(one.adapter))]
    if not rows:
        raise ConfigError(f"{target} has no rows")
    return InputRows("+".join(one.name for one in opened), rows)


def _holds_items(path: Path) -> bool:
    """Whether the first line is an item: a text, or an object of nothing else."""
    for number, _, line in lines_of(path):
        _, value = line_value(line, number)
        if isinstance(value, InputError):
            return False
        try:
            MultimodalInput.of(value)
        except InputError:
            return False
        return True
    return False


def _row(
    index: int,
    name: str,
    example: ContrastiveExample | None,
    document: MultimodalInput | None = None,
) -> InputRow:
    if document is None:
        assert example is not None
        document = example.positives[0]
    return InputRow(
        key=str(index),
        id=name,
        query=example.query if example else None,
        document=document,
        negative=example.hard_negatives[0] if example and example.hard_negatives else None,
        example=example,
        label=example.label if example else None,
    )


def _text(item: MultimodalInput | None) -> str:
    parts = item.parts if item is not None else ()
    return "\n".join(part.text for part in parts if isinstance(part, Text))
