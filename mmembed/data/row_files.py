"""Our own format of training rows: JSON lines, or the same columns as parquet.

    {"id": "r1", "query": "a cat on a mat", "positives": [{"image": "photos/cat.jpg"}],
     "negatives": ["a dog"], "task": "retrieval"}

`query` and `positives` are required. Items are what `mmembed.data.row_items` reads; media are named
relative to the file. `row_writer` writes such files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from mmembed.config.validation import did_you_mean
from mmembed.data.row_items import checked_text, item_of_cell, item_of_json, shown
from mmembed.data.row_writer import FIELDS, ParquetRowWriter, RowWriter
from mmembed.errors import InputError
from mmembed.tables.local_rows import LocalRows
from mmembed.types import ContrastiveExample, MultimodalInput, Task, Text

__all__ = ["ParquetRowWriter", "RowFile", "RowWriter"]

_KNOWN = frozenset({*FIELDS, "positive"})
_PAIR = frozenset({"id", "query", "positives", "positive", "task", "meta"})
_TASKS: tuple[str, ...] = get_args(Task)


class RowFile(LocalRows):
    """The rows of one file, or of the shards in one folder. An `ExampleRows`.

    A row without `id` has no `query_id`, and one without `positive_ids` is known by the content of
    its documents. A data set has one task: that of its first good row.

    Args:
        path: `.jsonl`, `.json`, `.parquet`, `.arrow`, also `.gz`; or a folder of one such table.
        task: of all rows, whatever they say; None = as they say, `retrieval` if they do not.
        media_root, name, split: see `LocalRows`, as are errors.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        media_root: str | Path | None = None,
        task: Task | None = None,
        name: str | None = None,
        split: str = "train",
    ) -> None:
        super().__init__(path, task=task, media_root=media_root, name=name, split=split)
        is_columnar = self.table.files[0].suffix in (".parquet", ".arrow")
        self._item = item_of_cell if is_columnar else item_of_json
        if "positive_ids" in self.table.columns:
            self.document_ids = self._document_ids

    @classmethod
    def matches(cls, columns: Sequence[str], row: Mapping[str, Any]) -> bool:
        """Whether a file of these columns is in this format."""
        return "query" in columns and (
            "positives" in columns or ("positive" in columns and set(columns) <= _KNOWN)
        )

    def meta(self, index: int) -> dict[str, Any]:
        """What the row says besides: its `meta`."""
        return _meta(self.table[index].get("meta"))

    def task_of(self, row: Mapping[str, Any]) -> Task:
        task: Task = row["task"] if row.get("task") in _TASKS else "retrieval"
        return task

    def parse(self, row: dict[str, Any]) -> ContrastiveExample:
        get = row.get
        if not row.keys() <= _KNOWN:
            raise _unknown(row)
        query, positives = get("query"), get("positives")
        if positives is None:
            positives = get("positive")
        elif get("positive") is not None:
            raise InputError("invalid_type", "both positives and positive; give one of them")
        if get("meta") is not None:
            _meta(row["meta"])
        if query is None or positives is None:
            raise _missing("query" if query is None else "positives", row)
        if type(positives) is not list:
            positives = [positives]
        if not positives:
            raise InputError("empty", "positives: an empty list; a row has at least one positive")
        task = get("task")
        if task is not None and task != self.task:
            self._check_task(task)
        query_item = self._items([query], "query")[0]
        positive_items = self._items(positives, "positives")
        query_id = _name(get("id"), "id") or ""
        if row.keys() <= _PAIR:
            return ContrastiveExample(query_item, positive_items, (), self.task, query_id)
        negatives = _list(get("negatives"), "negatives")
        return ContrastiveExample(
            query=query_item,
            positives=positive_items,
            hard_negatives=self._items(negatives, "negatives"),
            task=self.task,
            query_id=query_id,
            positive_ids=_names(get("positive_ids"), "positive_ids", len(positives)),
            label=_name(get("label"), "label"),
            negative_labels=_names(get("negative_labels"), "negative_labels", len(negatives)),
            scores=_scores(get("scores"), len(positives) + len(negatives)),
        )

    def _items(self, values: list[Any], field: str) -> tuple[MultimodalInput, ...]:
        items: list[MultimodalInput] = []
        for value in values:
            if type(value) is str and value.isascii() and value[:1] != "{":  # most are
                items.append(MultimodalInput((Text(value),)))
                continue
            try:
                items.append(self._item(value, self.media_root))
            except InputError as error:
                place = field if field == "query" else f"{field}[{len(items)}]"
                raise InputError(
                    error.code, f"{place}: {error.detail}", part=error.part, source=error.source
                ) from None
        return tuple(items)

    def _document_ids(self, index: int) -> tuple[str, ...]:
        """Of a row without ids what its documents say; of a bad row nothing."""
        try:
            row = self.table[index]
        except InputError:
            return ()
        ids = row.get("positive_ids")
        if isinstance(ids, list) and ids:
            return tuple(map(str, ids))
        documents = row.get("positives") or row.get("positive") or []
        documents = documents if isinstance(documents, list) else [documents]
        return tuple(repr(document) for document in documents)

    def _check_task(self, task: Any) -> None:
        if task not in _TASKS:
            guess = did_you_mean(str(task), _TASKS)
            raise InputError(
                "invalid_type", f"task {shown(task)} is unknown{guess}; tasks: {', '.join(_TASKS)}"
            )
        if not self.is_task_given:
            raise InputError(
                "invalid_type",
                f"task {task!r} in a file whose first row is {self.task!r}; a data set has one "
                f"task: give each task its file, or all rows this one with task={self.task}",
            )


def _unknown(row: Mapping[str, Any]) -> InputError:
    names = [str(name) for name in row if name not in _KNOWN]
    guess = did_you_mean(names[0], FIELDS)
    return InputError(
        "invalid_type",
        f"unknown field {', '.join(map(repr, names))}{guess}; fields are {', '.join(FIELDS)}; "
        "put anything else under meta",
    )


def _missing(field: str, row: Mapping[str, Any]) -> InputError:
    return InputError(
        "empty",
        f"no {field}; found {', '.join(row) or 'no fields'}; query and positives are needed",
    )


def _meta(value: Any) -> dict[str, Any]:
    """An object; parquet has it as JSON."""
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            found = value
    if found is not None and not isinstance(found, dict):
        raise InputError("invalid_type", f"meta: found {shown(value)}; an object is expected")
    return dict(found or {})


def _list(value: Any, field: str) -> list[Any]:
    if value is None:
        return []
    if type(value) is not list:
        raise InputError("invalid_type", f"{field}: found {shown(value)}; a list is expected")
    return value


def _name(value: Any, field: str) -> str | None:
    """A name; whole numbers are written out."""
    if value is None:
        return None
    if type(value) is str:
        return checked_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise InputError(
        "invalid_type", f"{field}: found {shown(value)}; a text or a whole number is expected"
    )


def _names(value: Any, field: str, count: int) -> tuple[str, ...]:
    values = _list(value, field)
    if not values:
        return ()
    names = tuple(_name(each, f"{field}[{number}]") or "" for number, each in enumerate(values))
    if "" in names:
        raise InputError("empty", f"{field}[{names.index('')}]: no name")
    if len(names) != count:
        what = "positives" if field == "positive_ids" else "negatives"
        raise InputError(
            "invalid_type", f"{len(names)} {field} for {count} {what}; give one each, or none"
        )
    return names


def _scores(value: Any, count: int) -> tuple[float, ...] | None:
    values = _list(value, "scores")
    if value is None:
        return None
    for number, each in enumerate(values):
        if isinstance(each, bool) or not isinstance(each, int | float):
            raise InputError(
                "invalid_type", f"scores[{number}]: found {shown(each)}; a number is expected"
            )
        if not _is_finite(each):
            raise InputError("nonfinite", f"scores[{number}]: {str(each)[:20]}")
    if len(values) != count:
        raise InputError(
            "invalid_type",
            f"{len(values)} scores for {count} positives and negatives; give one each, or none",
        )
    return tuple(map(float, values))


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number of hundreds of digits
        return False
