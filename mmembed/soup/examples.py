"""Scores a model on a few examples, for weights from losses and for the greedy soup.

A file holds one example a line, media named relative to the file:

    {"query": "a dog", "positive": {"image": "dog.jpg"}, "negatives": ["a cat"]}

`query`, `positive` and each negative are what `MultimodalInput.of` takes; `negatives` may be left
out. Embeddings are the model's own: its prompt, its pooling, its head.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmembed.encoder.embedder import Embedder
from mmembed.errors import ConfigError, InputError
from mmembed.inputs.item_files import beside
from mmembed.losses.embeddings import ContrastiveEmbeddings
from mmembed.losses.info_nce import InfoNCE
from mmembed.types import MultimodalInput

__all__ = ["Example", "ExampleScores", "Examples", "read_examples", "retrieval_scores"]

_TEMPERATURE = 0.05  # of the contrastive loss of LM-Cocktail (arXiv 2311.13534, its code)
_KEYS = {"query", "positive", "negatives"}


@dataclass(frozen=True)
class Example:
    """A query, the document that answers it, and documents that do not."""

    query: MultimodalInput
    positive: MultimodalInput
    negatives: tuple[MultimodalInput, ...] = ()


@dataclass(frozen=True)
class ExampleScores:
    """How a model does on the examples.

    Attributes:
        loss: InfoNCE at temperature 0.05 against all documents of the file.
        mrr, recall_at_1: of the queries over the positives of the file.
    """

    loss: float
    mrr: float
    recall_at_1: float


def read_examples(path: Path) -> list[Example]:
    """All examples of a JSON-lines file.

    Raises:
        ConfigError: naming the line that is no example, or a file that is unreadable or empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start:,} is not UTF-8") from None
    examples = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                examples.append(_parse(line, path.parent))
            except (InputError, ValueError) as error:
                detail = error.detail if isinstance(error, InputError) else error
                raise ConfigError(f"{path}, line {number}: {detail}") from None
    if not examples:
        raise ConfigError(f"{path} holds no examples")
    return examples


class Examples:
    """Scores model folders on the same examples, each folder once.

    Args:
        device, num_workers: see `Embedder.from_pretrained`.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        device: str | None = None,
        num_workers: int | None = None,
    ) -> None:
        self.examples = list(examples)
        self.device = device
        self.num_workers = num_workers
        self._known: dict[Path, ExampleScores] = {}

    def __call__(self, folder: Path) -> ExampleScores:
        key = folder.absolute()
        if key not in self._known:
            self._known[key] = self._measure(folder)
        return self._known[key]

    def _measure(self, folder: Path) -> ExampleScores:
        documents = _Documents()
        positive = np.array([documents.add(example.positive) for example in self.examples])
        rows: list[int] = []  # document of each column: the positives, then all hard negatives
        owner: list[int] = []
        for number, example in enumerate(self.examples):
            rows += [documents.add(negative) for negative in example.negatives]
            owner += [number] * len(example.negatives)
        with Embedder.from_pretrained(
            folder, device=self.device, num_workers=self.num_workers
        ) as embedder:
            queries = embedder.encode_query([example.query for example in self.examples])
            vectors = embedder.encode_document(documents.items)
        columns = np.concatenate([positive, np.array(rows, dtype=positive.dtype)])
        numbers = torch.arange(len(self.examples))
        batch = ContrastiveEmbeddings.of_one_process(
            torch.from_numpy(queries),
            torch.from_numpy(vectors[columns]),
            positive=numbers,
            owner=torch.cat([numbers, torch.tensor(owner, dtype=torch.int64)]),
            ids=torch.from_numpy(columns).long(),
        )
        loss = InfoNCE()(batch, torch.tensor(_TEMPERATURE)).loss.item()
        mrr, recall = retrieval_scores(queries, vectors, positive)
        return ExampleScores(loss, mrr, recall)


def retrieval_scores(
    queries: np.ndarray, documents: np.ndarray, positive: np.ndarray
) -> tuple[float, float]:
    """MRR and recall@1 over the documents that are somebody's positive.

    Ties count against the positive, so a model that has collapsed to one point scores badly.

    Args:
        queries: (Q, D) unit rows; documents: (M, D); positive: (Q,) the document of each query.
    """
    corpus = np.unique(positive)
    scores = queries @ documents[corpus].T  # (Q, C)
    own = corpus[None, :] == positive[:, None]
    rank = 1 + ((scores >= scores[own][:, None]) & ~own).sum(axis=1)
    return float((1 / rank).mean()), float((rank == 1).mean())


class _Documents:
    """Documents without repetition; equal content gets one number."""

    def __init__(self) -> None:
        self.items: list[MultimodalInput] = []
        self._numbers: dict[str, int] = {}

    def add(self, item: MultimodalInput) -> int:
        number = self._numbers.setdefault(repr(item), len(self.items))
        if number == len(self.items):
            self.items.append(item)
        return number


def _parse(line: str, folder: Path) -> Example:
    fields = json.loads(line)
    if not isinstance(fields, dict) or not _KEYS >= fields.keys() >= {"query", "positive"}:
        raise ValueError(
            "an example is an object with the keys query, positive and, if there are any, negatives"
        )
    negatives = fields.get("negatives", [])
    if not isinstance(negatives, list):
        raise ValueError("negatives must be a list")

    def item(value: Any) -> MultimodalInput:
        return beside(folder, MultimodalInput.of(value))

    return Example(
        item(fields["query"]), item(fields["positive"]), tuple(item(value) for value in negatives)
    )
