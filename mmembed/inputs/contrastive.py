"""Training rows -> one packed batch: all queries, then all documents, in one row of tokens.

The batch keeps what a loss needs to know about its columns: which is whose positive, who brought a
hard negative, and which documents are the same by content. Runs in worker threads, ahead of the
training loop.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmembed.errors import InputError
from mmembed.inputs.collator import EncoderInputs, pack
from mmembed.inputs.processor import PreparedItem, Processor
from mmembed.types import ContrastiveExample, MultimodalInput, Role

__all__ = ["ContrastiveBatch", "ContrastiveCollator", "TrainingRow", "content_id", "document_id"]


@dataclass(frozen=True)
class TrainingRow:
    """One example as one epoch uses it.

    Args:
        source, index: dataset and row number, for errors and logs.
        positive: which of the example's positives is used this time.
        temperature_group: whose learnt temperature applies.
        query_instruction, document_instruction: for items that bring none themselves.
    """

    example: ContrastiveExample
    source: str
    index: int
    positive: int = 0
    temperature_group: str = "retrieval"
    query_instruction: str | None = None
    document_instruction: str | None = None


@dataclass(frozen=True)
class ContrastiveBatch:
    """B queries and M documents. The first B items of `inputs` are the queries.

    Args:
        inputs: B + M packed items.
        positive: (B,) column of each query's positive.
        owner: (M,) row of the query that brought each document.
        ids: (M,) 64-bit content ids; equal ids are the same document.
        tasks: B temperature groups.
        sources: the datasets of the batch, for logs.
    """

    inputs: EncoderInputs
    positive: Tensor
    owner: Tensor
    ids: Tensor
    tasks: tuple[str, ...]
    sources: tuple[str, ...]
    num_tokens: int

    @property
    def num_queries(self) -> int:
        return len(self.tasks)


class ContrastiveCollator:
    """Prepares rows with the model's own processor.

    Args:
        processor: the processor of the model that is trained; thread-safe.
        max_hard_negatives: use at most this many of a row's hard negatives, the first ones.
        cache_bytes: keep prepared items in memory up to this size; small data that comes again
            every epoch is then decoded and tokenised once. 0 = off.
    """

    def __init__(
        self,
        processor: Processor,
        *,
        max_hard_negatives: int | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self.processor = processor
        self.max_hard_negatives = max_hard_negatives
        self._cache = _PreparedCache(cache_bytes)

    def __call__(self, rows: Sequence[TrainingRow]) -> ContrastiveBatch:
        """Prepare and pack.

        Raises:
            InputError: an item cannot be used; its index is (dataset, row, which item).
        """
        queries = [_Slot(row, "query", row.example.query) for row in rows]
        documents = [
            _Slot(row, f"positive {row.positive}", row.example.positives[row.positive])
            for row in rows
        ]
        owner = list(range(len(rows)))
        ids = [document_id(row.example, row.positive) for row in rows]
        if any(row.example.hard_negatives for row in rows) and self.max_hard_negatives != 0:
            # Adapters name positives only. A hard negative that is somebody's positive must get
            # that positive's id, or it would be punished as a negative of its own document.
            named = {content_id(slot.item): id_ for slot, id_ in zip(documents, ids, strict=True)}
            for number, row in enumerate(rows):
                kept = row.example.hard_negatives[: self.max_hard_negatives]
                for position, hard in enumerate(kept):
                    documents.append(_Slot(row, f"hard negative {position}", hard))
                    owner.append(number)
                    content = content_id(hard)
                    ids.append(named.get(content, content))
        prepared = self._prepare(queries, "query") + self._prepare(documents, "document")
        return ContrastiveBatch(
            inputs=pack(prepared),
            positive=torch.arange(len(rows)),
            owner=torch.tensor(owner),
            ids=torch.tensor(ids),
            tasks=tuple(row.temperature_group for row in rows),
            sources=tuple(dict.fromkeys(row.source for row in rows)),
            num_tokens=sum(item.num_tokens for item in prepared),
        )

    def _prepare(self, slots: Sequence[_Slot], role: Role) -> list[PreparedItem]:
        """One prepared item for each slot; all that are not cached in one call."""
        items = [slot.instructed(role) for slot in slots]
        keys = [self._cache.key(role, item, slot) for item, slot in zip(items, slots, strict=True)]
        found = [self._cache.get(key) for key in keys]
        missing = [number for number, item in enumerate(found) if item is None]
        fresh = self.processor.prepare_all([items[number] for number in missing], role=role)
        for number, result in zip(missing, fresh, strict=True):
            slot = slots[number]
            if isinstance(result, InputError):
                raise result.at((slot.row.source, slot.row.index, slot.what))
            self._cache.put(keys[number], result)
            found[number] = result
        return [item for item in found if item is not None]


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


class _PreparedCache:
    """Least recently used prepared items, by content where it can be hashed, else by row."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._items: OrderedDict[Hashable, tuple[PreparedItem, int]] = OrderedDict()
        self._lock = threading.Lock()

    def key(self, role: Role, item: MultimodalInput, slot: _Slot) -> Hashable:
        if not self._capacity:
            return None
        try:
            hash(item)
        except TypeError:  # pictures in memory
            return (role, slot.row.source, slot.row.index, slot.what)
        return (role, item)

    def get(self, key: Hashable) -> PreparedItem | None:
        if key is None:
            return None
        with self._lock:
            entry = self._items.get(key)
            if entry is None:
                return None
            self._items.move_to_end(key)
            return entry[0]

    def put(self, key: Hashable, item: PreparedItem) -> None:
        if key is None:
            return
        arrays = (item.input_ids, item.position_ids, item.patches, item.grid_thw)
        size = sum(array.nbytes for array in arrays if array is not None)
        with self._lock:
            if key in self._items or size > self._capacity:
                return
            self._items[key] = (item, size)
            self._size += size
            while self._size > self._capacity:
                _, (_, freed) = self._items.popitem(last=False)
                self._size -= freed


def document_id(example: ContrastiveExample, positive: int) -> int:
    """64-bit id of one positive: of the adapter's id where it gives one, else of the content."""
    if example.positive_ids:
        return _number(b"id\0" + example.positive_ids[positive].encode())
    return content_id(example.positives[positive])


def content_id(item: MultimodalInput) -> int:
    """64-bit id of what an item says and shows; its instruction does not count."""
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
