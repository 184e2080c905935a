"""Columns of sentence-transformers: the order counts, not the names.

Rule: the collator of sentence-transformers takes the first of `label`, `labels`, `score`, `scores`
as the target, leaves out `dataset_name`, and hands all other columns to the loss in their order:
anchor, positive, negatives. So are they read here; only a column of ids is left out, which there
would be trained on as text. Detection asks for the names that its documentation uses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_adapters.cells import shortened
from data_adapters.formats.rows import FormatRows, number_of
from mmembed.errors import ConfigError, InputError
from mmembed.types import ContrastiveExample, MultimodalInput, Task

__all__ = ["SentenceTransformers"]

_LABELS = ("label", "labels", "score", "scores")
_SKIPPED = ("dataset_name", "return_loss", "id")
_ID = re.compile(r".*_(id|ids|idx)$")
_ANCHORS = ("anchor", "query", "question", "sentence1", "sentence_a", "text1", "premise", "text")
_POSITIVES = (
    "positive",
    "positive_1",
    "answer",
    "passage",
    "document",
    "sentence2",
    "sentence_b",
    "text2",
    "hypothesis",
    "response",
)
_WHOLE = re.compile(r"\s*[+-]?\d+\s*")
_NEGATIVE = re.compile(r"(hard_)?negative(_?\d+)?$|sentence3$|text3$")


class SentenceTransformers(FormatRows):
    """Pairs, triplets, n-tuples, scored pairs, and lists of labelled documents.

    A pair with a score, or a label of 0 or 1, has it under `scores`, and is an `sts` row. A column
    `scores` of lists holds teacher scores of the positive and the negatives. A second column of
    lists has documents that are positive where the list of labels says 1.

    Args:
        columns: anchor, positive and negatives, where the order of the file is another.
        label: the column of the target, if it is called something else.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        columns: Sequence[str] | None = None,
        label: str | None = None,
        task: Task | None = None,
        media_root: str | Path | None = None,
        name: str | None = None,
        split: str = "train",
    ) -> None:
        if isinstance(columns, str) or (columns is not None and not all(map(_is_text, columns))):
            raise ConfigError(f"columns is {columns!r}; give a list of names: [query, document]")
        if label is not None and not isinstance(label, str):
            raise ConfigError(f"label is {label!r}; give the name of a column")
        self._label = label
        self._inputs: tuple[str, ...] | None = None if columns is None else tuple(columns)
        super().__init__(path, task=task, media_root=media_root, name=name, split=split)
        known = self.table.columns
        if self._label is None:
            self._label = next((column for column in _LABELS if column in known), None)
        if self._inputs is None:
            self._inputs = _inputs(known, self._label)
        absent = [each for each in (*self._inputs, self._label) if each and each not in known]
        if absent or (known and len(self._inputs) < 2):
            what = f"no column {', '.join(absent)}" if absent else "fewer than two columns of items"
            raise ConfigError(
                f"{path}: {what}; the file has {', '.join(known) or 'no columns'}. Name anchor, "
                "positive and negatives with columns=, and the target with label="
            )

    @classmethod
    def matches(cls, columns: Sequence[str], row: Mapping[str, Any]) -> bool:
        label = next((column for column in _LABELS if column in columns), None)
        inputs = [column.lower() for column in _inputs(columns, label)]
        return (
            len(inputs) >= 2
            and inputs[0] in _ANCHORS
            and inputs[1] in _POSITIVES
            and all(map(_NEGATIVE.match, inputs[2:]))
            and (inputs[:2] != ["query", "positive"] or len(inputs) > 2 or label is not None)
        ) or (label in ("label", "labels", "scores") and _is_labelled_list(inputs, row))

    def task_of(self, row: Mapping[str, Any]) -> Task:
        label = self._label or next((column for column in _LABELS if column in row), None)
        graded = label is not None and not isinstance(row.get(label), list)
        return "sts" if graded else "retrieval"

    def parse(self, row: dict[str, Any]) -> ContrastiveExample:
        assert self._inputs is not None
        anchor, *documents = self._inputs
        target = None if self._label is None else row.get(self._label)
        query = self.item(self._cell(row, anchor), anchor)
        if isinstance(row.get(documents[0]), list):
            positives, negatives = self._by_label(row[documents[0]], target, documents[0])
            return ContrastiveExample(query, positives, negatives, task=self.task)
        positive = self.item(self._cell(row, documents[0]), documents[0])
        negatives = tuple(
            self.item(row[column], column)
            for column in documents[1:]
            if row.get(column) not in (None, "")  # rows of one file may have fewer than others
        )
        return ContrastiveExample(
            query=query,
            positives=(positive,),
            hard_negatives=negatives,
            task=self.task,
            scores=self._scores(target, len(negatives)),
        )

    def _cell(self, row: Mapping[str, Any], column: str) -> Any:
        cell = row.get(column)
        if cell is None:
            raise InputError("empty", f"no {column}; found {', '.join(map(str, row))}")
        return cell

    def _scores(self, target: Any, num_negatives: int) -> tuple[float, ...] | None:
        if self._label is None:
            return None
        if isinstance(target, list):
            if len(target) != 1 + num_negatives:
                raise InputError(
                    "invalid_type",
                    f"{self._label}: {len(target)} numbers for {1 + num_negatives} documents",
                )
            return tuple(number_of(each, self._label) for each in target)
        score = number_of(target, self._label)
        if num_negatives:
            raise InputError(
                "invalid_type",
                f"{self._label}: one number for {1 + num_negatives} documents; expected a list",
            )
        is_whole = _WHOLE.fullmatch(str(target)) is not None  # CSV has numbers as texts
        if self._label.startswith("label") and is_whole and score not in (0, 1):
            raise InputError(
                "invalid_type",
                f"{self._label}: found the class {target}; pairs are labelled 0 or 1, or with a "
                "similarity; if it is one, call the column score",
            )
        return (score,)

    def _by_label(
        self, documents: list[Any], labels: Any, column: str
    ) -> tuple[tuple[MultimodalInput, ...], tuple[MultimodalInput, ...]]:
        if not isinstance(labels, list) or len(labels) != len(documents):
            raise InputError(
                "invalid_type",
                f"{self._label}: found {shortened(labels)}; expected a list of {len(documents)}",
            )
        if any(label not in (0, 1) for label in labels):
            raise InputError("invalid_type", f"{self._label}: labels of documents are 0 or 1")
        items = [self.item(each, f"{column}[{n}]") for n, each in enumerate(documents)]
        positives = tuple(item for item, label in zip(items, labels, strict=True) if label)
        if not positives:
            raise InputError("empty", f"{self._label}: no document is labelled 1")
        negatives = tuple(item for item, label in zip(items, labels, strict=True) if not label)
        return positives, negatives


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _inputs(columns: Sequence[str], label: str | None) -> tuple[str, ...]:
    """Columns of items, in order."""
    return tuple(
        column
        for column in columns
        if column != label and column not in _SKIPPED and not _ID.match(column)
    )


def _is_labelled_list(inputs: Sequence[str], row: Mapping[str, Any]) -> bool:
    """(anchor, [documents], [labels])."""
    return (
        len(inputs) == 2
        and inputs[0] in _ANCHORS
        and inputs[1] in ("docs", "documents", "passages", "texts")
        and any(isinstance(row.get(column), list) for column in _LABELS)
    )
