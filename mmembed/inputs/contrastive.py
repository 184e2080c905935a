"""Training rows -> one packed batch: queries and documents together, in one row of tokens.

The batch keeps what a loss needs to know about its columns: which is whose positive, who brought a
hard negative, and which documents are the same by content. Runs in worker threads, ahead of the
training loop.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from mmembed.errors import InputError
from mmembed.inputs.collator import EncoderInputs, pack, split
from mmembed.inputs.items import PreparedItem
from mmembed.inputs.processor import Processor
from mmembed.types import ContrastiveExample, MultimodalInput, Role, Text

__all__ = [
    "ContrastiveBatch",
    "ContrastiveCollator",
    "PreparedRow",
    "TrainingRow",
    "all_good",
    "content_id",
    "document_id",
    "named_id",
    "query_id",
]

Prepared = TypeVar("Prepared")


@dataclass(frozen=True)
class TrainingRow:
    """One example as one epoch uses it.

    Args:
        source, index: dataset and row number, for errors and logs.
        positive: which of the example's positives is used this time.
        temperature_group: whose learnt temperature applies.
        query_instruction, document_instruction: for items that bring none themselves.
        max_hard_negatives: use at most this many of the hard negatives, the first ones.
        varies: another epoch may use it in another way.
    """

    example: ContrastiveExample
    source: str
    index: int
    positive: int = 0
    temperature_group: str = "retrieval"
    query_instruction: str | None = None
    document_instruction: str | None = None
    max_hard_negatives: int | None = None
    varies: bool = False


@dataclass(frozen=True)
class ContrastiveBatch:
    """B queries and M documents.

    Args:
        inputs: B + M packed items in chunks, shortest first, because attention batches equal
            lengths.
        place: (B + M,) where each query, then each document, stands in the chunks end to end.
        positive: (B,) column of each query's positive.
        owner: (M,) row of the query that brought each document.
        ids: (M,) 64-bit content ids; equal ids are the same document.
        positive_contents: (B,) ids of what the positives hold, whatever their adapter calls them.
        query_ids: (B,) content ids of the queries.
        query_classes: (B,) ids of class names; document_classes: (M,). Where a row names no
            class, its content id stands in, which no other content has.
        scores: (M,) the examples' scores; NaN where a row has none.
        tasks: B temperature groups.
        sources: the datasets of the batch, for logs.
    """

    inputs: tuple[EncoderInputs, ...]
    place: Tensor
    positive: Tensor
    owner: Tensor
    ids: Tensor
    tasks: tuple[str, ...]
    sources: tuple[str, ...]
    num_tokens: int
    positive_contents: Tensor
    query_ids: Tensor
    query_classes: Tensor
    document_classes: Tensor
    scores: Tensor

    @property
    def num_queries(self) -> int:
        return len(self.tasks)


@dataclass(frozen=True)
class PreparedRow:
    """A row as tensors: its positive first, then its hard negatives."""

    query: PreparedItem
    documents: tuple[PreparedItem, ...]
    ids: tuple[int, ...]
    positive_content: int
    temperature_group: str
    source: str
    query_id: int
    classes: tuple[int, ...]  # of the query and each document
    scores: tuple[float, ...]  # of each document

    @property
    def num_bytes(self) -> int:
        return sum(item.num_bytes for item in (self.query, *self.documents))


class ContrastiveCollator:
    """Turns rows into batches with the model's own processor. Thread-safe.

    Args:
        processor: the processor of the model that is trained.
        max_tokens: of an item of each role, where it differs from the processor's.
        chunk_tokens: most tokens of a chunk, patch rows included; None = one chunk.
        picture_keys: name the pictures of a batch by content, see `pack`.
    """

    def __init__(
        self,
        processor: Processor,
        *,
        max_tokens: Mapping[Role, int | None] | None = None,
        chunk_tokens: int | None = None,
        picture_keys: bool = False,
    ) -> None:
        self.processor = processor
        self.max_tokens = dict(max_tokens or {})
        self.chunk_tokens = chunk_tokens
        self.picture_keys = picture_keys

    def __call__(self, rows: Sequence[TrainingRow]) -> ContrastiveBatch:
        """Prepare and pack; see `prepare`."""
        return self.collate(all_good(self.prepare(rows)))

    def prepare(self, rows: Sequence[TrainingRow]) -> list[PreparedRow | InputError]:
        """Decode and tokenise all items of the rows, the texts of a role in one call.

        A row with an item that cannot be used gives the error of the first such item; its index
        is (dataset, row, which item).
        """
        queries = [_Slot(row, "query", row.example.query) for row in rows]
        documents = [
            [_Slot(row, f"positive {row.positive}", row.example.positives[row.positive])]
            + [
                _Slot(row, f"hard negative {position}", hard)
                for position, hard in enumerate(
                    row.example.hard_negatives[: row.max_hard_negatives]
                )
            ]
            for row in rows
        ]
        prepared_queries = self._prepare(queries, "query")
        prepared = iter(self._prepare([slot for row in documents for slot in row], "document"))
        prepared_rows: list[PreparedRow | InputError] = []
        for row, query, slots in zip(rows, prepared_queries, documents, strict=True):
            try:
                of_query, *of_documents = all_good([query, *[next(prepared) for _ in slots]])
            except InputError as error:
                prepared_rows.append(error)
                continue
            positive = document_id(row.example, row.positive)
            ids = (positive, *(content_id(slot.item) for slot in slots[1:]))
            prepared_rows.append(
                PreparedRow(
                    query=of_query,
                    documents=tuple(of_documents),
                    ids=ids,
                    positive_content=content_id(slots[0].item),
                    temperature_group=row.temperature_group,
                    source=row.source,
                    query_id=query_id(row.example),
                    classes=_classes(row.example, ids),
                    scores=_scores(row, len(slots)),
                )
            )
        return prepared_rows

    def collate(self, rows: Sequence[PreparedRow]) -> ContrastiveBatch:
        """Pack prepared rows. Columns: the positives in row order, then the hard negatives."""
        hard = [
            (number, position)
            for number, row in enumerate(rows)
            for position in range(1, len(row.documents))
        ]
        columns = [*((number, 0) for number in range(len(rows))), *hard]
        # Adapters name positives only. A hard negative that is somebody's positive must get that
        # positive's id, or it would be punished as a negative of its own document.
        named = {row.positive_content: row.ids[0] for row in rows}
        items = [row.query for row in rows]
        items += [rows[number].documents[position] for number, position in columns]
        order = sorted(range(len(items)), key=lambda position: items[position].num_tokens)
        packed = pack([items[position] for position in order], picture_keys=self.picture_keys)
        return ContrastiveBatch(
            inputs=split(packed, self.chunk_tokens),
            place=torch.tensor(order).argsort(),
            positive=torch.arange(len(rows)),
            owner=torch.tensor([number for number, _ in columns]),
            ids=torch.tensor(
                [row.ids[0] for row in rows]
                + [
                    named.get(rows[number].ids[place], rows[number].ids[place])
                    for number, place in hard
                ]
            ),
            tasks=tuple(row.temperature_group for row in rows),
            sources=tuple(dict.fromkeys(row.source for row in rows)),
            num_tokens=sum(item.num_tokens for item in items),
            positive_contents=torch.tensor([row.positive_content for row in rows]),
            query_ids=torch.tensor([row.query_id for row in rows]),
            query_classes=torch.tensor([row.classes[0] for row in rows]),
            document_classes=torch.tensor([rows[n].classes[1 + place] for n, place in columns]),
            scores=torch.tensor([rows[n].scores[place] for n, place in columns]),
        )

    def _prepare(self, slots: Sequence[_Slot], role: Role) -> list[PreparedItem | InputError]:
        results = self.processor.prepare_all(
            [slot.instructed(role) for slot in slots],
            role=role,
            max_tokens=self.max_tokens.get(role),
        )
        return [
            result.at((slot.row.source, slot.row.index, slot.what))
            if isinstance(result, InputError)
            else result
            for slot, result in zip(slots, results, strict=True)
        ]


@dataclass(frozen=True)
class _Slot:
    """One item of a row and where it stands in it."""

    row: TrainingRow
    what: str
    item: MultimodalInput

    def instructed(self, role: Role) -> MultimodalInput:
        row = self.row
        default = row.query_instruction if role == "query" else row.document_instruction
        if default is None or self.item.instruction is not None:
            return self.item
        return replace(self.item, instruction=default)


def all_good(results: Sequence[Prepared | InputError]) -> list[Prepared]:
    """The results, or the first error among them raised."""
    good: list[Prepared] = []
    for result in results:
        if isinstance(result, InputError):
            raise result
        good.append(result)
    return good


def document_id(example: ContrastiveExample, positive: int) -> int:
    """64-bit id of one positive: of the adapter's id where it gives one, else of the content."""
    if example.positive_ids:
        return named_id(example.positive_ids[positive])
    return content_id(example.positives[positive])


def query_id(example: ContrastiveExample) -> int:
    """64-bit id of the query: of its content, so that equal texts are one query whatever their rows
    are called. Media are known by the adapter's id where it gives one, which costs no reading.
    """
    if example.query_id and not all(isinstance(part, Text) for part in example.query.parts):
        return named_id(example.query_id)
    return content_id(example.query)


def _classes(example: ContrastiveExample, ids: Sequence[int]) -> tuple[int, ...]:
    """Class ids of the query and of the documents with these content ids."""
    own = None if example.label is None else _number(b"class\0" + example.label.encode())
    named = (_number(b"class\0" + name.encode()) for name in example.negative_labels)
    negatives = tuple(named) or ids[1:]
    return (
        query_id(example) if own is None else own,
        ids[0] if own is None else own,
        *negatives[: len(ids) - 1],
    )


def _scores(row: TrainingRow, num_documents: int) -> tuple[float, ...]:
    """Scores of the positive in use and of the hard negatives in use."""
    scores = row.example.scores
    if scores is None:
        return (math.nan,) * num_documents
    first_negative = len(row.example.positives)
    return (scores[row.positive], *scores[first_negative : first_negative + num_documents - 1])


def named_id(name: str) -> int:
    """64-bit id of an id that an adapter gives."""
    return _number(b"id\0" + name.encode())


def content_id(item: MultimodalInput) -> int:
    """64-bit id of what an item says and shows; its instruction does not count."""
    if len(item.parts) == 1 and type(item.parts[0]) is Text:  # most items: in one call
        return _number(b"text\0" + item.parts[0].text.encode("utf-8", "surrogatepass"))
    digest = hashlib.blake2b(digest_size=8)
    for part in item.parts:
        digest.update(type(part).__name__.encode())
        for field in fields(part):
            _update(digest, getattr(part, field.name))
    return int.from_bytes(digest.digest(), "big", signed=True)


def _update(digest: hashlib.blake2b, value: Any) -> None:
    """Feed a value with its kind and length, so that neighbours cannot run together."""
    if isinstance(value, tuple):
        digest.update(b"(%d" % len(value))
        for entry in value:
            _update(digest, entry)
        return
    if isinstance(value, bytes):
        payload = value
    elif isinstance(value, np.ndarray):
        payload = f"{value.shape}{value.dtype}".encode() + value.tobytes()
    elif hasattr(value, "tobytes") and hasattr(value, "mode"):  # PIL
        payload = f"{value.size}{value.mode}".encode() + value.tobytes()
    else:
        payload = repr(value).encode()
    digest.update(b"%s %d\0" % (type(value).__name__.encode(), len(payload)))
    digest.update(payload)


def _number(payload: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(payload, digest_size=8).digest(), "big", signed=True)
