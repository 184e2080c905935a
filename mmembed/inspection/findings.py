"""What a check found: kinds with a severity, exact counts, and the first findings of each kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["KINDS", "Finding", "Findings", "Kind", "Severity"]

Severity = Literal["error", "warning", "note"]
KEPT = 10_000  # findings of one kind that are kept; all are counted


@dataclass(frozen=True)
class Kind:
    """`drops`: `--write-clean` leaves such rows out."""

    severity: Severity
    words: str
    drops: bool = False


KINDS: dict[str, Kind] = {
    "unreadable": Kind("error", "rows that cannot be read", drops=True),
    "missing": Kind("error", "missing media", drops=True),
    "corrupt": Kind("error", "media that cannot be opened", drops=True),
    "duplicate_id": Kind("error", "ids that an earlier row has", drops=True),
    "empty": Kind("error", "empty texts", drops=True),
    "positive_in_negatives": Kind("error", "positives that are negatives too", drops=True),
    "leak": Kind("error", "rows with something of the evaluation", drops=True),
    "conflict": Kind("warning", "equal queries with different labels"),
    "query_is_positive": Kind("warning", "queries that are their own positive", drops=True),
    "duplicate": Kind("warning", "pairs that an earlier row has", drops=True),
    "near_text": Kind("warning", "texts that nearly repeat an earlier one"),
    "near_picture": Kind("warning", "pictures that look like an earlier one"),
    "encoding": Kind("warning", "texts with damaged letters"),
    "media_as_text": Kind("warning", "texts that look like media"),
    "lossy": Kind("warning", "media that are decoded with a loss"),
    "address": Kind("warning", "media at an address, which were not opened"),
    "repeated_query": Kind("note", "queries that several rows have"),
    "repeated_document": Kind("note", "positives that several rows have"),
    "imbalance": Kind("note", "classes of very unequal size"),
}


@dataclass(frozen=True)
class Finding:
    """`place` is for people, `train.jsonl, line 17`; `row` counts within the data set."""

    kind: str
    dataset: str
    row: int | None
    place: str
    field: str
    message: str

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity

    def __str__(self) -> str:
        field = f", {self.field}" if self.field else ""
        return f"{self.place}{field}: {self.message}"


class Findings:
    """Collects; three bytes a row remember which rows a copy leaves out."""

    def __init__(self, num_rows: int) -> None:
        self.counts: Counter[str] = Counter()
        self.dropped = np.zeros(num_rows, np.bool_)
        self.leaked = np.zeros(num_rows, np.bool_)
        self.unreadable = np.zeros(num_rows, np.bool_)
        self._kept: dict[str, list[Finding]] = defaultdict(list)

    def add(self, finding: Finding, row: int | None) -> None:
        """`row` counts through all data sets."""
        self.counts[finding.kind] += 1
        if len(self._kept[finding.kind]) < KEPT:
            self._kept[finding.kind].append(finding)
        if row is None:
            return
        self.dropped[row] |= KINDS[finding.kind].drops
        self.leaked[row] |= finding.kind == "leak"
        self.unreadable[row] |= finding.kind == "unreadable"

    def of(self, kind: str) -> list[Finding]:
        return self._kept.get(kind, [])

    def __iter__(self) -> Iterator[Finding]:
        """Errors first, kinds in the order of `KINDS`."""
        for kind in KINDS:
            yield from self.of(kind)

    def count(self, severity: Severity) -> int:
        return sum(count for kind, count in self.counts.items() if KINDS[kind].severity == severity)
