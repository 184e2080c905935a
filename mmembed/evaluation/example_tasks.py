"""Small made-up tasks of every kind and a model without weights, to try the evaluator out.

The suite `example`; `mmembed eval selfcheck` runs it from end to end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.store.content import source_digest
from mmembed.tasks import (
    EvaluationTask,
    LoadedTask,
    Profile,
    RetrievalTask,
    SimilarityTask,
    TaskCard,
)
from mmembed.types import Image, MultimodalInput, Role, Text

__all__ = ["ExampleTasks", "HashingEncoder", "load_hashing_encoder"]

_ANIMALS = ("cat", "dog", "horse", "owl", "salmon", "beetle", "otter", "crane")
_PLACES = ("in the rain", "under a bridge", "on the roof", "by the river")
_COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}


class ExampleTasks:
    """A `TaskSource` that needs no data."""

    def __init__(self, root: Path | None, profile: Profile) -> None:
        del root, profile
        self._tasks: dict[str, tuple[TaskCard, EvaluationTask]] = {}
        self._add(_sentences(), "text", "T-RET", "hit@1")
        self._add(_labels(), "text", "T-CLS", "hit@1", has_pools=True)
        self._add(_grades(), "text", "T-GRADED", "ndcg_linear@5")
        self._add(_pairs(), "text", "T-STS", "spearman")
        self._add(_pictures(), "image", "I-RET", "hit@1")

    def cards(self) -> Sequence[TaskCard]:
        return tuple(card for card, _ in self._tasks.values())

    def load(self, name: str, *, allow_missing: bool = False) -> LoadedTask:
        return LoadedTask(self._tasks[name][1])

    def _add(
        self,
        task: EvaluationTask,
        modality: str,
        group: str,
        metric: str,
        *,
        has_pools: bool = False,
    ) -> None:
        card = TaskCard(
            task.name,
            modality,
            group,
            metric,
            source="made up",
            revision="1",
            license="Apache-2.0",
            has_pools=has_pools,
        )
        self._tasks[task.name] = card, task


class HashingEncoder:
    """Words of a text and the content of a medium, hashed: an `ItemEncoder` without weights."""

    embedding_dimension = 64

    def __init__(self, name: str = "hashing") -> None:
        self.name = name
        self.space = hashlib.sha256(f"mmembed hashing encoder 1 {name}".encode()).hexdigest()

    def encode(
        self,
        items: Sequence[MultimodalInput],
        *,
        role: Role,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        rows = np.stack([self._row(item) for item in items])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def describe(self) -> Mapping[str, Any]:
        return {"kind": "hashing", "space": self.space}

    def close(self) -> None: ...

    def _row(self, item: MultimodalInput) -> np.ndarray:
        row = 0.1 * self._direction(f"instruction {item.instruction}")
        for part in item.parts:
            if isinstance(part, Text):
                for word in part.text.lower().split():
                    row = row + self._direction(f"word {word}")
                continue
            frames = part.source if isinstance(part.source, tuple) else (part.source,)
            for frame in frames:
                row = row + self._direction(f"medium {source_digest(frame)}")
        return row

    def _direction(self, word: str) -> np.ndarray:
        digest = hashlib.sha256(f"{self.name} {word}".encode("utf-8", "surrogatepass")).digest()
        seed = int.from_bytes(digest[:8], "big")
        return np.random.default_rng(seed).normal(size=self.embedding_dimension).astype(np.float32)


def load_hashing_encoder(spec: str, **options: Any) -> HashingEncoder:
    """For `--loader mmembed.evaluation.example_tasks:load_hashing_encoder`."""
    del options
    return HashingEncoder(spec)


def _text(text: str) -> MultimodalInput:
    return MultimodalInput((Text(text),))


def _sentences() -> RetrievalTask:
    corpus = {
        f"d{number:02}": _text(f"the {animal} sits {place} all day")
        for number, (animal, place) in enumerate((a, p) for a in _ANIMALS for p in _PLACES)
    }
    wanted = [
        (a, p, number) for number, (a, p) in enumerate((a, p) for a in _ANIMALS for p in _PLACES)
    ]
    queries = {f"q{number:02}": _text(f"{place} a {animal}") for animal, place, number in wanted}
    relevant = {f"q{number:02}": {f"d{number:02}": 1.0} for _, _, number in wanted}
    return RetrievalTask(
        "example-sentences", queries, corpus, relevant, query_instruction="find the sentence"
    )


def _labels() -> RetrievalTask:
    labels = {animal: _text(animal) for animal in _ANIMALS}
    queries = {f"q-{animal}": _text(f"a photo of one {animal}") for animal in _ANIMALS}
    return RetrievalTask(
        "example-labels",
        queries,
        labels,
        {f"q-{animal}": {animal: 1.0} for animal in _ANIMALS},
        pools={
            # the right one first, as in public files: a scorer must not profit from it
            f"q-{animal}": [animal, *(other for other in _ANIMALS if other != animal)]
            for animal in _ANIMALS
        },
    )


def _grades() -> RetrievalTask:
    corpus = {
        f"{animal}-{number}": _text(f"{animal} {place}")
        for animal in _ANIMALS
        for number, place in enumerate(_PLACES)
    }
    relevant = {
        animal: {f"{animal}-0": 3.0, f"{animal}-1": 2.0, f"{animal}-2": 1.0} for animal in _ANIMALS
    }
    queries = {animal: _text(f"{animal} {_PLACES[0]}") for animal in _ANIMALS}
    return RetrievalTask("example-grades", queries, corpus, relevant)


def _pairs() -> SimilarityTask:
    words = ("one", "two", "three", "four", "five", "six")
    pairs, scores = {}, {}
    for shared in range(len(words) + 1):
        second = [*words[:shared], *(f"no{word}" for word in words[shared:])]
        pairs[f"p{shared}"] = (_text(" ".join(words)), _text(" ".join(second)))
        scores[f"p{shared}"] = float(shared)
    return SimilarityTask("example-pairs", pairs, scores)


def _pictures() -> RetrievalTask:
    pictures = {
        name: MultimodalInput((Image(np.full((28, 28, 3), colour, np.uint8)),))
        for name, colour in _COLOURS.items()
    }
    # the same pictures once more: equal content, other names
    copies = {
        f"copy-{name}": MultimodalInput((Image(np.full((28, 28, 3), colour, np.uint8)),))
        for name, colour in _COLOURS.items()
    }
    relevant = {name: {name: 1.0, f"copy-{name}": 1.0} for name in pictures}
    return RetrievalTask("example-pictures", pictures, {**pictures, **copies}, relevant)
