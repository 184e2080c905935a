"""`mmembed data check`: every fault of every row with its place, and what the rows are like.

Rows are read in pieces, their media opened in killable processes, a few numbers of each row kept
(224 bytes for a text and its positive text, about twice that at the end) and then compared. Nothing
stops at the first fault; Ctrl-C ends the reading and reports on what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmembed.data.opening import OpenedDataset
from mmembed.errors import InputError
from mmembed.inputs.media import MediaPart, MediaPolicy, part_name
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inspection.comparison import RawFinding, RowComparison
from mmembed.inspection.findings import KINDS, Finding, Findings
from mmembed.inspection.leakage import EvaluationItem, LeakageIndex
from mmembed.inspection.media_facts import MediaFacts, MediaReader
from mmembed.inspection.near_pictures import MAX_DISTANCE
from mmembed.inspection.near_texts import MIN_SIMILARITY
from mmembed.inspection.row_faults import equal_items, text_faults
from mmembed.inspection.rows import RowSpace, fields_of, sampled_rows
from mmembed.inspection.statistics import DatasetStatistics
from mmembed.progress import shown_progress
from mmembed.store.content import hash_file
from mmembed.types import ContrastiveExample, Text, Url

__all__ = ["CheckReport", "check_rows"]

_AT_ONCE = 64
_REMEMBERED_FILES = 1 << 16
_IMBALANCE = 100
_SHOWN = 200
_MISSING = frozenset({"not_found", "not_a_file"})


@dataclass(frozen=True)
class CheckReport:
    """What was found.

    Attributes:
        num_checked: rows that were looked at, of `len(rows)`.
        was_interrupted: by Ctrl-C; then rows behind the last one were not looked at.
        num_compared: evaluation items that rows were compared with, None: with none;
            `num_unopened` of their media could not be opened.
        num_bytes: memory that the comparison of the rows took.
    """

    rows: RowSpace
    statistics: Sequence[DatasetStatistics]
    findings: Findings
    num_checked: int
    was_interrupted: bool
    num_compared: int | None
    num_unopened: int
    num_bytes: int

    @property
    def is_whole(self) -> bool:
        return self.num_checked == len(self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        found = self.findings
        return {
            "rows": len(self.rows),
            "rows_checked": self.num_checked,
            "was_interrupted": self.was_interrupted,
            "compared_with": self.num_compared,
            "evaluation_media_not_opened": self.num_unopened,
            "memory_bytes": self.num_bytes,
            "errors": found.count("error"),
            "warnings": found.count("warning"),
            "counts": {kind: found.counts[kind] for kind in KINDS if found.counts[kind]},
            "datasets": [each.as_dict() for each in self.statistics],
            "findings": [{**vars(each), "severity": each.severity} for each in found],
        }


def check_rows(
    opened: OpenedDataset | Sequence[OpenedDataset],
    *,
    sample: int | None = None,
    seed: int = 0,
    decode: bool = True,
    near: bool = True,
    distance: int = MAX_DISTANCE,
    similarity: float = MIN_SIMILARITY,
    against: Iterable[EvaluationItem] | None = None,
    count_tokens: Callable[[str], int] | None = None,
    policy: MediaPolicy | None = None,
    num_workers: int = 2,
    show_progress_bar: bool | None = None,
) -> CheckReport:
    """Look at every row.

    Args:
        sample: so many rows of all data sets, drawn by `seed`; None: all.
        decode: open media; else only look whether files are there. Without, pictures that look
            alike are not found.
        near: look for near duplicates.
        against: evaluation items; rows that have something of them are reported as leaks.
        count_tokens: of a text, for the histograms.
    """
    rows = RowSpace([opened] if isinstance(opened, OpenedDataset) else opened)
    chosen = sampled_rows(len(rows), sample, seed=seed)
    decoder = MediaDecoder(policy, num_workers) if decode else None
    try:
        media = MediaReader(decoder)
        leakage = None if against is None else LeakageIndex(against, media, distance=distance)
        comparison = RowComparison(
            rows,
            digest=lru_cache(_REMEMBERED_FILES)(hash_file),
            leakage=leakage,
            near=near,
            distance=distance,
            similarity=similarity,
        )
        check = _Check(rows, media, comparison, count_tokens)
        interrupted = False
        with shown_progress(show_progress_bar, "checking", len(chosen), "rows") as advance:
            try:
                for begin in range(0, len(chosen), _AT_ONCE):
                    some = [int(row) for row in chosen[begin : begin + _AT_ONCE]]
                    check.look_at(some)
                    advance(len(some))
            except KeyboardInterrupt:
                interrupted = True
        try:
            for raw in comparison.findings():
                check.report(raw)
        except KeyboardInterrupt:
            interrupted = True
        check.report_imbalance()
    finally:
        if decoder is not None:
            decoder.close()
    return CheckReport(
        rows,
        check.statistics,
        check.findings,
        check.num_checked,
        interrupted,
        None if leakage is None else len(leakage),
        0 if leakage is None else leakage.num_unread,
        comparison.num_bytes,
    )


class _Check:
    """What grows while rows are looked at."""

    def __init__(
        self,
        rows: RowSpace,
        media: MediaReader,
        comparison: RowComparison,
        count_tokens: Callable[[str], int] | None,
    ) -> None:
        self.num_checked = 0
        self.findings = Findings(len(rows))
        self.statistics = [DatasetStatistics(each.name, count_tokens) for each in rows.datasets]
        for facts, opened in zip(self.statistics, rows.datasets, strict=True):
            facts.num_rows = len(opened.adapter)
        self._rows = rows
        self._media = media
        self._comparison = comparison

    def look_at(self, numbers: Sequence[int]) -> None:
        examples = {row: self._read(row) for row in numbers}
        parts: list[tuple[int, int, str, MediaPart]] = [
            (row, slot, field, part)
            for row, example in examples.items()
            if example is not None
            for slot, (field, item) in enumerate(fields_of(example))
            for part in item.parts
            if not isinstance(part, Text)
        ]
        outcomes = self._media.read([part for *_, part in parts])
        facts: dict[int, dict[int, list[MediaFacts]]] = {row: {} for row in numbers}
        for (row, slot, field, part), outcome in zip(parts, outcomes, strict=True):
            if isinstance(outcome, InputError):
                self._report_media(row, field, part, outcome)
                continue
            facts[row].setdefault(slot, []).append(outcome)
            self._statistics(row).add_media(outcome)
            for warning in outcome.warnings:
                self.report(RawFinding("lossy", row, f"{field}, {part_name(part)}", warning))
        for row, example in examples.items():
            if example is not None:
                self._look_into(row, example, facts[row])
            self.num_checked += 1

    def report(self, raw: RawFinding) -> None:
        number, index = self._rows.locate(raw.row)
        name = self._rows.datasets[number].name
        place = self._rows.place(raw.row)
        finding = Finding(raw.kind, name, index, place, raw.field, raw.message)
        self.findings.add(finding, raw.row)

    def report_imbalance(self) -> None:
        for facts in self.statistics:
            if len(facts.labels) < 2:
                continue
            (most, many), *_, (least, few) = facts.labels.most_common()
            if many >= _IMBALANCE * few:
                words = f"{many:,} rows are {most!r}, {few:,} {least!r}"
                found = Finding("imbalance", facts.name, None, facts.name, "label", words)
                self.findings.add(found, None)

    def _statistics(self, row: int) -> DatasetStatistics:
        return self.statistics[self._rows.locate(row)[0]]

    def _read(self, row: int) -> ContrastiveExample | None:
        try:
            return self._rows.example(row)
        except InputError as error:
            self._report_unreadable(row, error.detail)
        except (
            Exception
        ) as error:  # of anybody's adapter: the other rows are looked at all the same
            self._report_unreadable(row, str(error) or type(error).__name__)
        return None

    def _report_unreadable(self, row: int, message: str) -> None:
        place = self._rows.place(row)
        if message.startswith(place):
            message = message[len(place) :].lstrip(":, ")
        self.report(RawFinding("unreadable", row, "", message))

    def _report_media(self, row: int, field: str, part: MediaPart, error: InputError) -> None:
        kind = "missing" if error.code in _MISSING else "corrupt"
        if error.code == "forbidden_url":
            kind = "address"
        named = _named(part.source) or error.source
        source = f"{named}: " if named else ""
        where = f"{field}, {part_name(part)}"
        detail = "not opened" if kind == "address" else error.detail
        self.report(RawFinding(kind, row, where, f"{source}{error.code}: {detail}"))

    def _look_into(
        self, row: int, example: ContrastiveExample, facts: dict[int, list[MediaFacts]]
    ) -> None:
        self._statistics(row).add(example)
        for field, item in fields_of(example):
            for kind, message in text_faults(field, item):
                self.report(RawFinding(kind, row, field, message))
        hashes = self._comparison.item_hashes(example)
        for kind, field, message in equal_items(example, hashes):
            self.report(RawFinding(kind, row, field, message))
        for raw in self._comparison.add(row, example, hashes, facts):
            self.report(raw)


def _named(source: Any) -> str:
    """A file with its folder, an address; nothing for what is in memory or in several files."""
    if isinstance(source, Url):
        return source.url[:_SHOWN]
    return str(source)[-_SHOWN:] if isinstance(source, Path) else ""
