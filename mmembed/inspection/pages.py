"""A check as one HTML file: what was found, by kind, and what each data set is like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mmembed.html.histograms import BarChart, bar_chart
from mmembed.html.markup import Child, Markup, element
from mmembed.html.page import section, write_page
from mmembed.inspection.check import CheckReport
from mmembed.inspection.findings import KINDS, Finding
from mmembed.inspection.statistics import DatasetStatistics, Histogram

__all__ = ["number_words", "statistics_section", "table", "write_check_page"]

_SHOWN = 20
_SHOWN_CLASSES = 30


def write_check_page(path: Path, report: CheckReport, *, title: str) -> Path:
    """Stands alone: no script, no address, every text escaped."""
    found = report.findings
    words = [f"{report.num_checked:,} of {len(report.rows):,} rows were checked."]
    if report.was_interrupted:
        words.append("The check was interrupted; rows behind were not looked at.")
    if report.num_compared is not None:
        words.append(f"They were compared with {report.num_compared:,} evaluation items.")
    words.append(
        f"{found.count('error'):,} errors, {found.count('warning'):,} warnings, "
        f"{found.count('note'):,} notes."
    )
    body: list[Child] = [
        element("section", [element("p", each) for each in words], class_="summary")
    ]
    kinds = [kind for kind in KINDS if found.counts[kind]]
    if kinds:
        rows = [(KINDS[k].severity, KINDS[k].words, f"{found.counts[k]:,}") for k in kinds]
        body.append(section("Findings", table(("", "found", "count"), rows)))
    body += [_findings(kind, found.of(kind), found.counts[kind]) for kind in kinds]
    body += [statistics_section(each) for each in report.statistics]
    return write_page(path, title, body)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Markup:
    """Words; the first column names the row."""
    top = element("tr", [element("th", name, scope="col") for name in head])
    lines = [
        element("tr", element("th", row[0], scope="row"), [element("td", c) for c in row[1:]])
        for row in rows
    ]
    whole = element("table", element("thead", top), element("tbody", lines))
    return element("div", whole, class_="wide")


def statistics_section(facts: DatasetStatistics, *more: Child, before: Child = "") -> Markup:
    """What a data set is like: modalities, numbers, classes; a histogram where values differ."""
    children: list[Child] = [
        element("p", f"{facts.num_read:,} of {facts.num_rows:,} rows were read.", class_="muted")
    ]
    pairs = [(query, document, f"{n:,}") for (query, document), n in facts.modalities.most_common()]
    if pairs:
        children.append(table(("query", "document", "pairs"), pairs))
    counted = {name: each for name, each in facts.histograms.items() if each.count}
    if counted:
        head = ("", "values", "least", "median", "95 %", "most")
        children.append(table(head, [_numbers(name, each) for name, each in counted.items()]))
    charts = [_chart(name, each) for name, each in counted.items() if len(list(each.bins())) > 1]
    if len(facts.labels) > 1:
        top = facts.labels.most_common(_SHOWN_CLASSES)
        note = f"{len(facts.labels):,} classes" + (
            f", the {_SHOWN_CLASSES} largest" if len(facts.labels) > _SHOWN_CLASSES else ""
        )
        chart = BarChart("rows of a class", [name for name, _ in top], [n for _, n in top], note)
        charts.append(bar_chart(chart))
    if charts:
        children.append(element("div", charts, class_="charts"))
    return section(facts.name, before, children, *more)


def _findings(kind: str, findings: list[Finding], count: int) -> Markup:
    lines: list[Child] = [
        element(
            "li",
            element("strong", f"{each.place} {each.field}"),
            element("span", f" {each.message}"),
        )
        for each in findings[:_SHOWN]
    ]
    if count > _SHOWN:
        lines.append(element("li", f"and {count - _SHOWN:,} more", class_="muted"))
    words = f"{KINDS[kind].severity}: {KINDS[kind].words} ({count:,})"
    return element("article", element("h3", words), element("ul", lines))


def _chart(name: str, histogram: Histogram) -> Markup:
    bins = list(histogram.bins())
    starts = [math.ceil(low - 1e-9) if histogram.is_whole else low for low, *_ in bins]
    labels = [number_words(start) for start in starts]
    return bar_chart(BarChart(name, labels, [count for *_, count in bins]))


def _numbers(name: str, histogram: Histogram) -> tuple[str, ...]:
    quantiles = (histogram.quantile(0.5), histogram.quantile(0.95))
    values = (histogram.least, *quantiles, histogram.most)
    return name, f"{histogram.count:,}", *map(number_words, values)


def number_words(value: float) -> str:
    """Two digits behind the point where there is little before it."""
    return f"{value:,.2f}" if value < 10 and value != int(value) else f"{value:,.0f}"
