"""Data sets in memory and a teacher whose vectors the test chooses."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmembed.data.opening import OpenedDataset
from mmembed.errors import InputError
from mmembed.types import ContrastiveExample, MultimodalInput, Role, Task, Text


def text(words: str, instruction: str | None = None) -> MultimodalInput:
    return MultimodalInput((Text(words),), instruction)


def row(
    query: str, positives: str | Sequence[str], negatives: Sequence[str] = (), **fields: Any
) -> ContrastiveExample:
    positives = [positives] if isinstance(positives, str) else positives
    return ContrastiveExample(
        text(query), tuple(map(text, positives)), tuple(map(text, negatives)), **fields
    )


class ListedRows:
    """A `DatasetAdapter` over a list; an entry that is a string is a row that cannot be used."""

    task: Task = "retrieval"
    revision = "1"
    license = "CC0-1.0"

    def __init__(
        self,
        rows: Sequence[ContrastiveExample | str],
        name: str = "listed",
        wholes: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.rows = rows
        if wholes:
            self.sibling_key = lambda index: wholes[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> ContrastiveExample:
        found = self.rows[index]
        if isinstance(found, str):
            raise InputError("invalid_type", found)
        return found


def opened(*data: ListedRows) -> list[OpenedDataset]:
    return [OpenedDataset(each.name, each, "tests.mining.rows:ListedRows", {}) for each in data]


class ChosenVectors:
    """An `ItemEncoder` of texts: those that are given, else a direction drawn from the text.

    Attributes:
        num_encoded: items.
    """

    def __init__(
        self,
        vectors: Mapping[str, Sequence[float]] | None = None,
        *,
        dimension: int = 8,
        refused: Sequence[str] = (),
    ) -> None:
        self.vectors = dict(vectors or {})
        self.embedding_dimension = dimension
        self.refused = refused
        self.num_encoded = 0
        self.name = "chosen"
        said = repr((sorted(self.vectors.items()), dimension)).encode()
        self.space = hashlib.sha256(said).hexdigest()

    def encode(
        self,
        items: Sequence[MultimodalInput],
        *,
        role: Role,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        words = ["".join(part.text for part in item.parts) for item in items]  # type: ignore[union-attr]
        bad = [n for n, each in enumerate(words) if each in self.refused]
        if bad:
            raise InputError("corrupt", "this one is refused", index=bad[0])
        self.num_encoded += len(items)
        rows = np.stack([self.row(each) for each in words])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def row(self, words: str) -> np.ndarray:
        if words in self.vectors:
            return np.array(self.vectors[words], dtype=np.float32)
        seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big")
        return np.random.default_rng(seed).normal(size=self.embedding_dimension)

    def cosine(self, first: str, second: str) -> float:
        a, b = self.row(first), self.row(second)
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    def describe(self) -> Mapping[str, Any]:
        return {"kind": "chosen"}

    def close(self) -> None: ...
