"""Our rows in the formats of other trainers. What one cannot hold is refused, or counted as left.

Refused is what would change what is trained on: a picture in a format of texts, an instruction
that has no place. Left out and counted is what is said about a row: ids, labels, meta. The readers
of these formats are in `data_adapters/formats/`.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from mmembed.data.row_items import checked_text
from mmembed.errors import InputError
from mmembed.store.durable import sync_folder
from mmembed.types import ContrastiveExample, MultimodalInput, Text

__all__ = [
    "EXPORTS",
    "Export",
    "FlagEmbeddingExport",
    "SentenceTransformersExport",
    "TevatronExport",
]


class Export(ABC):
    """Writes JSON lines of one format; the file is there when all of it is.

    Attributes:
        num_rows: that were written; a row of ours may become several.
        left: how many rows had what the format has no place for, by its name.
    """

    holds: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.num_rows = 0
        self.left: Counter[str] = Counter()
        self._temporary = self.path.with_name(f".tmp-{os.getpid()}-{self.path.name}")
        self._file = self._temporary.open("w", encoding="utf-8", newline="\n")

    @abstractmethod
    def rows(self, example: ContrastiveExample) -> list[dict[str, Any]]:
        """Raises InputError where the format cannot say what the row does."""

    def write(self, example: ContrastiveExample, /, **meta: Any) -> None:
        rows = self.rows(example)
        for row in rows:
            self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        self.num_rows += len(rows)
        said = {
            "id": example.query_id,
            "positive_ids": example.positive_ids,
            "label": example.label is not None,
            "negative_labels": example.negative_labels,
            "scores": example.scores is not None,
            "task": example.task != "retrieval",
            "meta": meta,
        }
        self.left.update(name for name, value in said.items() if value and name not in self.holds)

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self.path)
        sync_folder(self.path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()
            self._temporary.unlink(missing_ok=True)


class SentenceTransformersExport(Export):
    """`anchor`, `positive`, `negative_1` ..., with `scores`; a graded pair as `sentence1`,
    `sentence2`, `score`. All rows of a file have the same columns: those of its first row.

    A row with several positives becomes one for each.

    Args:
        negatives: how many each row has, the first ones; None = as many as the first row.
    """

    holds = frozenset({"task", "scores"})

    def __init__(self, path: str | Path, *, negatives: int | None = None) -> None:
        super().__init__(path)
        self._wanted = negatives
        self._columns: tuple[str, ...] | None = None

    def rows(self, example: ContrastiveExample) -> list[dict[str, Any]]:
        wanted = len(example.hard_negatives) if self._wanted is None else self._wanted
        if len(example.hard_negatives) < wanted:
            raise InputError(
                "invalid_type",
                f"{len(example.hard_negatives)} negatives; all rows of the file have {wanted}, "
                "see --negatives",
            )
        anchor = _plain(example.query, "query")
        positives = [_plain(item, f"positives[{n}]") for n, item in enumerate(example.positives)]
        negatives = [
            _plain(item, f"negatives[{n}]")
            for n, item in enumerate(example.hard_negatives[:wanted])
        ]
        is_graded = (
            example.task == "sts"
            and example.scores is not None
            and not negatives
            and len(positives) == 1
        )
        rows: list[dict[str, Any]] = []
        for number, positive in enumerate(positives):
            if is_graded and example.scores:
                row = {"sentence1": anchor, "sentence2": positive, "score": example.scores[0]}
            else:
                row = {"anchor": anchor, "positive": positive}
                row |= {f"negative_{n}": text for n, text in enumerate(negatives, 1)}
                if example.scores is not None:
                    of_negatives = example.scores[len(positives) :][:wanted]
                    row["scores"] = [example.scores[number], *of_negatives]
            rows.append(row)
        columns = tuple(rows[0])
        if self._columns is None:
            self._columns, self._wanted = columns, wanted
        if columns != self._columns:
            raise InputError(
                "invalid_type",
                f"would have the columns {', '.join(columns)}; the rows before it have "
                f"{', '.join(self._columns)}",
            )
        if example.task != "retrieval" and not is_graded:
            self.left["task"] += 1
        if len(example.hard_negatives) > wanted:
            self.left[f"negatives beyond the first {wanted}"] += 1
        return rows


_TYPES = {
    "sts": "symmetric_sts",
    "classification": "symmetric_class",
    "clustering": "symmetric_clustering",
}


class FlagEmbeddingExport(Export):
    """`query`, `pos`, `neg`, `pos_scores`, `neg_scores`, `prompt`, `type`."""

    holds = frozenset({"task", "scores"})

    def rows(self, example: ContrastiveExample) -> list[dict[str, Any]]:
        count = len(example.positives)
        row: dict[str, Any] = {
            "query": _plain(example.query, "query", may_instruct=True),
            "pos": [_plain(item, f"positives[{n}]") for n, item in enumerate(example.positives)],
            "neg": [
                _plain(item, f"negatives[{n}]") for n, item in enumerate(example.hard_negatives)
            ],
        }
        if example.scores is not None:
            row["pos_scores"] = list(example.scores[:count])
            row["neg_scores"] = list(example.scores[count:])
        if example.query.instruction is not None:
            row["prompt"] = example.query.instruction
        if example.task in _TYPES:
            row["type"] = _TYPES[example.task]
        elif example.task != "retrieval":
            self.left["task"] += 1
        return [row]


class TevatronExport(Export):
    """`query_id`, `query`, `positive_passages`, `negative_passages` of `docid` and `text`.

    Tevatron needs ids: a row without one has its number, a document the sha256 of its text.
    """

    holds = frozenset({"id", "positive_ids"})

    def rows(self, example: ContrastiveExample) -> list[dict[str, Any]]:
        if example.task == "sts" and example.scores is not None:
            raise InputError(
                "invalid_type", "a graded pair; the format has no grades, and all would be positive"
            )
        ids = example.positive_ids or (None,) * len(example.positives)
        return [
            {
                "query_id": example.query_id or str(self.num_rows + 1),
                "query": _plain(example.query, "query"),
                "positive_passages": [
                    _passage(item, f"positives[{n}]", docid)
                    for n, (item, docid) in enumerate(zip(example.positives, ids, strict=True))
                ],
                "negative_passages": [
                    _passage(item, f"negatives[{n}]")
                    for n, item in enumerate(example.hard_negatives)
                ],
            }
        ]


EXPORTS: Mapping[str, type[Export]] = {
    "sentence-transformers": SentenceTransformersExport,
    "flagembedding": FlagEmbeddingExport,
    "tevatron": TevatronExport,
}


def _passage(item: MultimodalInput, name: str, docid: str | None = None) -> dict[str, str]:
    text = _plain(item, name)
    return {"docid": docid or hashlib.sha256(text.encode()).hexdigest()[:16], "text": text}


def _plain(item: MultimodalInput, name: str, *, may_instruct: bool = False) -> str:
    """The text that is all of an item.

    Raises:
        InputError: it has media, several parts or an instruction.
    """
    if item.instruction is not None and not may_instruct:
        raise InputError("invalid_type", f"{name} has an instruction, and the format no place")
    first = item.parts[0]
    if len(item.parts) > 1 or not isinstance(first, Text):
        what = "several texts" if item.modality == "text" else item.modality
        raise InputError("invalid_type", f"{name} is {what}; the format holds a text alone")
    return checked_text(first.text)
