"""A check in a terminal: numbers of each data set, then the findings by kind with the first few."""

from __future__ import annotations

from collections.abc import Iterator

from mmembed.cli.console import printable
from mmembed.inspection.check import CheckReport
from mmembed.inspection.findings import KINDS, Severity
from mmembed.inspection.pages import number_words
from mmembed.inspection.statistics import DatasetStatistics

__all__ = ["lines_of"]

_SHOWN = 5
_SHOWN_PAIRS = 8
_HEADINGS: dict[Severity, str] = {"error": "errors", "warning": "warnings", "note": "notes"}


def lines_of(report: CheckReport) -> Iterator[str]:
    for facts in report.statistics:
        yield from map(printable, _dataset(facts))
    found = report.findings
    for severity, heading in _HEADINGS.items():
        kinds = [kind for kind in KINDS if KINDS[kind].severity == severity and found.counts[kind]]
        if kinds:
            yield heading
        for kind in kinds:
            count = found.counts[kind]
            yield f"  {count:,} {KINDS[kind].words}"
            shown = _SHOWN if severity != "note" else 1
            for finding in found.of(kind)[:shown]:
                yield "    " + printable(str(finding))
            if count > shown:
                yield f"    and {count - shown:,} more"
    rows = f"{report.num_checked:,} of {len(report.rows):,} rows checked"
    if not (report.is_whole or report.was_interrupted):
        rows += " (drawn at random; --all looks at every row)"
    if report.num_compared is not None:
        rows += f", compared with {report.num_compared:,} evaluation items"
        if report.num_unopened:
            rows += f" ({report.num_unopened:,} media of them could not be opened)"
    yield (
        f"{rows}: {found.count('error'):,} errors, {found.count('warning'):,} warnings, "
        f"{found.count('note'):,} notes"
    )


def _dataset(facts: DatasetStatistics) -> Iterator[str]:
    yield f"{facts.name}: {facts.num_read:,} rows read of {facts.num_rows:,}"
    pairs = facts.modalities.most_common()
    for (query, document), count in pairs[:_SHOWN_PAIRS]:
        yield f"  {query} -> {document}: {count:,} pairs"
    if facts.labels:
        ordered = facts.labels.most_common()
        (most, many), (least, few) = ordered[0], ordered[-1]
        classes = "1 class" if most == least else f"{len(facts.labels):,} classes"
        yield f"  {classes}, {many:,} rows of {most!r}" + (
            "" if most == least else f" to {few:,} of {least!r}"
        )
    names = [name for name, each in facts.histograms.items() if each.count]
    if names:
        yield f"  {'':22}{'least':>12}{'median':>12}{'95 %':>12}{'most':>12}"
    for name in names:
        each = facts.histograms[name]
        values = (each.least, each.quantile(0.5), each.quantile(0.95), each.most)
        yield f"  {name:22}" + "".join(f"{number_words(value):>12}" for value in values)
