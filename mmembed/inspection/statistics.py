"""Numbers of a data set, row by row in constant memory: lengths, sizes, classes, modalities."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from mmembed.inspection.content import item_text
from mmembed.inspection.media_facts import MediaFacts
from mmembed.inspection.rows import fields_of
from mmembed.types import ContrastiveExample

__all__ = ["DatasetStatistics", "Histogram"]

_PER_OCTAVE = 2
_MAX_CLASSES = 100_000
_PLACES = {"query": "query", "positives": "positive", "negatives": "negative"}


class Histogram:
    """Counts in bins that grow by a factor of 1.41; zero has its own. Least, most, mean: exact."""

    def __init__(self) -> None:
        self.count = 0
        self.least = math.inf
        self.most = -math.inf
        self._sum = 0.0
        self._is_whole = True
        self._bins: Counter[int | None] = Counter()

    def add(self, value: float) -> None:
        """`value` >= 0."""
        self.count += 1
        self._sum += value
        self._is_whole = self._is_whole and value == int(value)
        self.least, self.most = min(self.least, value), max(self.most, value)
        self._bins[None if value <= 0 else math.floor(_PER_OCTAVE * math.log2(value) + 1e-9)] += 1

    @property
    def is_whole(self) -> bool:
        """Whether all values are whole numbers."""
        return self._is_whole

    @property
    def mean(self) -> float:
        return self._sum / self.count if self.count else math.nan

    def bins(self) -> Iterator[tuple[float, float, int]]:
        """(from, below, count), ascending, empty bins between included but those that no whole
        number can be in, where all values are whole."""
        if self._bins[None]:
            yield 0.0, 0.0, self._bins[None]
        numbers = [number for number in self._bins if number is not None]
        for number in range(min(numbers), max(numbers) + 1) if numbers else ():
            low, high = 2 ** (number / _PER_OCTAVE), 2 ** ((number + 1) / _PER_OCTAVE)
            if not self._is_whole or math.ceil(low - 1e-9) < high - 1e-9:
                yield low, high, self._bins[number]

    def quantile(self, share: float) -> float:
        """To within its bin: in error by at most a factor of 1.41; never outside what was seen."""
        wanted, below = share * self.count, 0
        for low, high, count in self.bins():
            if count and below + count >= wanted:
                inside = low + (high - low) * (wanted - below) / count
                inside = round(inside) if self._is_whole else inside
                return min(max(inside, self.least), self.most)
            below += count
        return math.nan

    def as_dict(self) -> dict[str, Any]:
        if not self.count:
            return {"count": 0}
        quantiles = {f"p{round(100 * q)}": round(self.quantile(q), 4) for q in (0.5, 0.95, 0.99)}
        bins = [[round(low, 4), round(high, 4), count] for low, high, count in self.bins()]
        numbers = {"min": self.least, "mean": round(self.mean, 4), **quantiles, "max": self.most}
        return {"count": self.count, **numbers, "bins": bins}


class DatasetStatistics:
    """Of one data set. `histograms` by what is counted; those that got no value are not there.

    Args:
        count_tokens: of a text; None: tokens are not counted.
    """

    def __init__(self, name: str, count_tokens: Callable[[str], int] | None = None) -> None:
        self.name = name
        self.num_rows = 0
        self.num_read = 0
        self.modalities: Counter[tuple[str, str]] = Counter()
        self.tasks: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.histograms: dict[str, Histogram] = {}
        self._count_tokens = count_tokens

    def add(self, example: ContrastiveExample) -> None:
        self.num_read += 1
        self.tasks[example.task] += 1
        for positive in example.positives:
            self.modalities[example.query.modality, positive.modality] += 1
        if example.label is not None and (
            example.label in self.labels or len(self.labels) < _MAX_CLASSES
        ):
            self.labels[example.label] += 1
        self.count("positives", len(example.positives))
        self.count("negatives", len(example.hard_negatives))
        for field, item in fields_of(example):
            text = item_text(item)
            if text:
                name = _PLACES[field.partition("[")[0]]
                self.count(f"{name} characters", len(text))
                if self._count_tokens is not None:
                    self.count(f"{name} tokens", self._count_tokens(text))

    def add_media(self, facts: MediaFacts) -> None:
        if facts.size is not None:
            width, height = facts.size
            self.count("pixels", width * height)
            self.count("width / height", width / height)
        if facts.num_frames is not None:
            self.count("frames", facts.num_frames)
        if facts.seconds is not None:
            self.count("seconds", facts.seconds)
        if facts.num_pages is not None:
            self.count("pages", facts.num_pages)

    def count(self, name: str, value: float) -> None:
        self.histograms.setdefault(name, Histogram()).add(value)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "rows": self.num_rows,
            "rows_read": self.num_read,
            "tasks": dict(self.tasks),
            "modalities": [
                {"query": query, "document": document, "count": count}
                for (query, document), count in self.modalities.most_common()
            ],
            "labels": dict(self.labels.most_common()),
            "histograms": {name: each.as_dict() for name, each in self.histograms.items()},
        }
