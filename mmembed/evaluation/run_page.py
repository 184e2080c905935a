"""The page of a run: means, flags, bars with intervals, modalities, worst queries, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmembed.evaluation.aggregation import Mean, title_of
from mmembed.evaluation.provenance import provenance
from mmembed.evaluation.summary import Summary, TaskLine
from mmembed.evaluation.sweeps import Sweep
from mmembed.evaluation.tables import beside_table, delta_table, percent, reference_notes
from mmembed.html.markup import Child, Markup, element
from mmembed.html.page import (
    Example,
    Matrix,
    example_article,
    matrix_table,
    section,
    write_page,
)

__all__ = ["RunPage", "write_run_page"]

_DASH = "\u2013"
_WIDTH, _HEIGHT = 200, 16


@dataclass(frozen=True)
class RunPage:
    """What the page shows beside the numbers; notes say why something is not there."""

    summary: Summary
    matrix: Matrix | None = None
    examples: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()


def write_run_page(path: Path, page: RunPage) -> Path:
    summary = page.summary
    body: list[Child] = [element("section", element("p", summary.heading), class_="summary")]
    flags = (*summary.flags, *page.notes)
    if flags:
        items = [element("li", text) for text in flags]
        body.append(section("Read this first", element("ul", items)))
    body.append(section("Means", _means(summary.means)))
    if summary.deltas:
        texts = [element("p", text) for text in reference_notes(summary)]
        table = _table(*delta_table(summary.deltas))
        body.append(section("Beside published numbers", *texts, table))
    if summary.beside is not None:
        about = "A dash: no complete result over the same queries and documents."
        table = _table(*beside_table(summary.beside))
        body.append(section("Beside other models", element("p", about, class_="muted"), table))
    body.append(section("Data sets", *_data_sets(summary)))
    if page.matrix is not None:
        body.append(section(page.matrix.title, matrix_table(page.matrix, percent=True)))
    if summary.sweep is not None:
        body.append(section("Shorter and coarser vectors", _sweep(summary.sweep)))
    if page.examples:
        about = "The worst query of each of the weakest data sets, with its first documents."
        shown = [example_article(each) for each in page.examples]
        body.append(section("Worst queries", element("p", about, class_="muted"), *shown))
    groups = provenance(summary.record)
    if groups:
        shown = [element("p", "The full record is in run.json.", class_="muted")]
        for title, rows in groups.items():
            pairs = [(element("dt", name), element("dd", value)) for name, value in rows.items()]
            shown += [element("h3", title), element("dl", pairs)]
        body.append(section("Provenance", *shown))
    return write_page(path, summary.name, body)


def _means(found: Sequence[Mean]) -> Markup:
    head = [element("th", name, scope="col") for name in ("mean over", "", "data sets")]
    rows = []
    for each in found:
        name = title_of(each.level, each.name)
        rows.append(
            element(
                "tr",
                element("th", name, scope="row"),
                element("td", _bar(each.value), class_="drawn"),
                element("td", each.coverage),
            )
        )
    table = element("table", element("thead", element("tr", head)), element("tbody", rows))
    return element("div", table, class_="wide")


def _data_sets(summary: Summary) -> list[Markup]:
    shown = []
    for modality in dict.fromkeys(line.card.modality for line in summary.lines):
        lines = [line for line in summary.lines if line.card.modality == modality]
        columns = ("data set", "", "95 % interval", "queries", "documents", "ties")
        head = element("tr", [element("th", name, scope="col") for name in columns])
        rows = [_data_set(line) for line in lines]
        table = element("table", element("thead", head), element("tbody", rows))
        shown += [element("h3", modality), element("div", table, class_="wide")]
    about = (
        "Bars are the main metric, whiskers the 95 % bootstrap interval over queries: how far the "
        "value would move with other queries of the same kind. It has no width where all queries "
        "have one value. Ties: queries whose value depends on how equal scores are ordered."
    )
    return [element("p", about, class_="muted"), *shown]


def _data_set(line: TaskLine) -> Markup:
    notes = [line.card.group, line.card.main_metric]
    notes += [line.card.split] if line.card.split else []
    notes += [f"PARTIAL: {line.num_missing} media missing"] if line.num_missing else []
    sizes = element("span", ", ".join(notes), class_="sizes")
    ends = None if line.interval is None else (line.interval.low, line.interval.high)
    return element(
        "tr",
        element("th", line.card.name, sizes, scope="row"),
        element("td", _bar(line.value, ends), class_="drawn"),
        element("td", _DASH if line.interval is None else str(line.interval), class_="muted"),
        element("td", f"{line.num_queries:,}"),
        element("td", f"{line.num_documents:,}"),
        element("td", f"{line.tie_affected:,}"),
    )


def _bar(value: float | None, ends: tuple[float, float] | None = None) -> Child:
    """A value in [0, 1] as a bar, its interval as a whisker; below 0 there is no bar."""
    if value is None:
        return _DASH

    def across(share: float) -> float:
        return round(min(max(share, 0.0), 1.0) * _WIDTH, 1)

    parts = [element("rect", x=0, y=2, width=across(value), height=_HEIGHT - 4)]
    if ends is not None:
        low, high = map(across, ends)
        middle = _HEIGHT / 2
        parts.append(element("line", x1=low, x2=high, y1=middle, y2=middle))
        parts += [element("line", x1=x, x2=x, y1=5, y2=_HEIGHT - 5) for x in (low, high)]
    drawing = element(
        "svg", parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", class_="value", role="presentation"
    )
    return [drawing, element("span", percent(value))]


def _sweep(found: Sweep) -> list[Child]:
    precisions = list(dict.fromkeys(cell.precision for cell in found.cells))
    dimensions = list(dict.fromkeys(cell.dimension for cell in found.cells))
    cells = {(cell.dimension, cell.precision): cell for cell in found.cells}
    matrix = Matrix(
        title="",
        rows=tuple(map(str, dimensions)),
        columns=tuple(precisions),
        values=tuple(tuple(cells[d, p].overall for p in precisions) for d in dimensions),
        comment=f"Mean over {len(found.tasks)} data sets, from stored vectors: truncated to the "
        "dimension of the row, normalised, quantised on both sides, scored again. Nothing was "
        "encoded.",
    )
    sizes = [(str(d), *(f"{cells[d, p].num_bytes:,}" for p in precisions)) for d in dimensions]
    return [
        matrix_table(matrix, corner="dimension", percent=True),
        element("h3", "Bytes of a vector"),
        _table(("dimension", *precisions), sizes),
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    head = element("tr", [element("th", name, scope="col") for name in columns])
    lines = [
        element("tr", element("th", row[0], scope="row"), [element("td", c) for c in row[1:]])
        for row in rows
    ]
    table = element("table", element("thead", head), element("tbody", lines))
    return element("div", table, class_="wide")
