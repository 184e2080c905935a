"""Who might ask about a document: the nearest lines of a file of personas."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from mmembed.errors import ConfigError
from mmembed.synthesis.pipeline import Personas
from mmembed.synthesis.texts import words
from mmembed.types import MultimodalInput

if TYPE_CHECKING:
    import numpy as np

    from mmembed.baselines.item_encoder import ItemEncoder

__all__ = ["PersonaFinder", "read_personas"]


def read_personas(path: Path) -> list[str]:
    """One persona a line, or JSON lines with `persona`; blank lines are passed over.

    Raises:
        ConfigError: the file cannot be read, or a line is neither.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file of personas {path} cannot be read: {error}") from None
    found: list[str] = []
    for number, line in enumerate(lines, 1):
        text: object = line.strip()
        if path.suffix in {".jsonl", ".ndjson"} and text:
            try:
                text = json.loads(line)["persona"]
            except (ValueError, KeyError, TypeError):
                raise ConfigError(f'{path}, line {number}: expected {{"persona": "..."}}') from None
        if isinstance(text, str) and text:
            found.append(text)
    if not found:
        raise ConfigError(f"{path} has no personas")
    return found


class PersonaFinder:
    """The `count` personas nearest to a text, nearest first; equal ones in the order of the file.

    Without a model: those that share its rare words (a cosine of idf weights). Thread-safe.
    """

    def __init__(self, settings: Personas) -> None:
        self.personas = read_personas(Path(settings.file))
        self._count = min(settings.count, len(self.personas))
        self._lock = threading.Lock()
        self._encoder: ItemEncoder | None = None
        self._vectors: np.ndarray | None = None
        if settings.model is not None:
            from mmembed.baselines.loading import load_model

            self._encoder = load_model(settings.model)
            self._vectors = self._encode(self.personas)
        bags = [Counter(words(persona)) for persona in self.personas]
        present = Counter(word for bag in bags for word in bag)
        self._weight = {word: math.log(1 + len(bags) / n) for word, n in present.items()}
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for place, bag in enumerate(bags):
            norm = math.sqrt(sum((n * self._weight[word]) ** 2 for word, n in bag.items())) or 1.0
            for word, n in bag.items():
                self._postings[word].append((place, n * self._weight[word] / norm))

    def nearest(self, text: str) -> list[str]:
        scores = [0.0] * len(self.personas)
        if self._vectors is not None:
            scores = (self._vectors @ self._encode([text])[0]).tolist()
        else:
            for word, number in Counter(words(text)).items():
                for place, weight in self._postings.get(word, ()):
                    scores[place] += number * self._weight[word] * weight
        order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
        return [self.personas[place] for place in order[: self._count]]

    def _encode(self, texts: list[str]) -> np.ndarray:
        assert self._encoder is not None
        with self._lock:
            items = [MultimodalInput.of(text) for text in texts]
            return self._encoder.encode(items, role="document", show_progress_bar=False)
