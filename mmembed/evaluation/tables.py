"""Reports as text: Markdown, CSV and JSON of a run, tables of a comparison.

Markdown and the terminal show per cent; CSV and JSON hold the exact shares.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mmembed.evaluation.aggregation import title_of
from mmembed.evaluation.comparison import ComparedRow, Comparison
from mmembed.evaluation.provenance import provenance
from mmembed.evaluation.reference_scores import Delta
from mmembed.evaluation.side_by_side import SideBySide
from mmembed.evaluation.significance import LEVEL
from mmembed.evaluation.summary import Summary, TaskLine

if TYPE_CHECKING:
    from mmembed.evaluation.sweeps import Sweep

__all__ = [
    "COMPARISON_COLUMNS",
    "CSV_COLUMNS",
    "MEAN_COLUMNS",
    "SWEEP_COLUMNS",
    "TASK_COLUMNS",
    "as_csv",
    "as_json",
    "as_markdown",
    "beside_table",
    "comparison_csv",
    "comparison_json",
    "comparison_markdown",
    "comparison_rows",
    "delta_table",
    "mean_rows",
    "percent",
    "reference_notes",
    "sweep_rows",
    "task_rows",
]

MEAN_COLUMNS = ("mean", "value", "data sets")
TASK_COLUMNS = ("data set", "group", "metric", "value", "95 % interval", "queries", "documents")
SWEEP_COLUMNS = ("dimension", "precision", "bytes", "mean of data sets")
_DELTA_COLUMNS = ("reference", "cell", "run", "published", "delta", "")
COMPARISON_COLUMNS = ("", "data sets", "queries", "first", "second", "difference", "95 % interval",
                      "adjusted p", "verdict")  # fmt: skip
CSV_COLUMNS = (
    "level", "modality", "group", "split", "name", "metric", "value", "low", "high", "official",
    "pessimistic", "tie_affected", "num_queries", "num_documents", "num_missing", "num_found",
    "num_expected",
)  # fmt: skip
_DASH = "-"
_FULL_REFERENCES = 2  # so many are shown cell by cell


def mean_rows(summary: Summary) -> list[tuple[str, ...]]:
    return [
        (
            title_of(each.level, each.name),
            _DASH if each.value is None else percent(each.value),
            each.coverage,
        )
        for each in summary.means
    ]


def task_rows(summary: Summary) -> list[tuple[str, ...]]:
    return [
        (
            line.card.name + (" (partial)" if line.num_missing else ""),
            line.card.group,
            line.card.main_metric,
            percent(line.value),
            _DASH if line.interval is None else str(line.interval),
            f"{line.num_queries:,}",
            f"{line.num_documents:,}",
        )
        for line in summary.lines
    ]


def delta_table(deltas: Sequence[Delta]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows: a row for each cell, or, of more than two references, for each of them."""
    by_row: dict[str, list[Delta]] = {}
    for delta in deltas:
        by_row.setdefault(delta.row.title, []).append(delta)
    if len(by_row) <= _FULL_REFERENCES:
        return _DELTA_COLUMNS, [_delta_row(delta) for delta in deltas]
    names = dict.fromkeys(each.name for each in deltas if each.level in ("modality", "overall"))
    rows = []
    for title, found in by_row.items():
        cells = {each.name: each for each in found if each.level in ("modality", "overall")}
        rows.append((title, *(_delta_cell(cells.get(name)) for name in names)))
    return ("reference", *names), rows


def beside_table(found: SideBySide) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns, one for each run, and rows."""
    rows = [
        (title, *(_DASH if value is None else percent(value) for value in values))
        for title, values in found.rows
    ]
    return ("", *found.names), rows


def _delta_row(delta: Delta) -> tuple[str, ...]:
    return (
        delta.row.title,
        title_of(delta.level, delta.name),
        _DASH if delta.found is None else f"{delta.found:.2f}",
        str(round(delta.published, 2)),
        _DASH if delta.difference is None else f"{delta.difference:+.2f}",
        delta.verdict,
    )


def _delta_cell(delta: Delta | None) -> str:
    if delta is None:
        return _DASH
    if delta.difference is None:
        return f"{delta.published} (not compared)" if delta.refusal else f"{delta.published} (-)"
    sign = " within noise" if delta.verdict == "within noise" else ""
    return f"{delta.published} ({delta.difference:+.2f}{sign})"


def comparison_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    return [
        (
            row.title,
            str(row.num_tasks),
            f"{row.num_queries:,}",
            percent(row.first),
            percent(row.second),
            f"{100 * row.difference:+.2f}",
            f"{100 * row.interval.low:+.2f} to {100 * row.interval.high:+.2f}",
            f"{row.adjusted_p:.4f}",
            row.verdict,
        )
        for row in comparison.rows
    ]


def sweep_rows(found: Sweep) -> list[tuple[str, ...]]:
    return [
        (str(cell.dimension), cell.precision, f"{cell.num_bytes:,}", percent(cell.overall))
        for cell in found.cells
    ]


def as_markdown(summary: Summary) -> str:
    parts = [f"# {_words(summary.name)}", "", _words(summary.heading), ""]
    if summary.flags:
        parts += [*(f"- {_words(flag)}" for flag in summary.flags), ""]
    parts += ["## Means", "", *_table(MEAN_COLUMNS, mean_rows(summary)), ""]
    if summary.deltas:
        parts += ["## Beside published numbers", ""]
        parts += [f"{_words(text)}\n" for text in reference_notes(summary)]
        parts += [*_table(*delta_table(summary.deltas)), ""]
    if summary.beside is not None:
        parts += ["## Beside other models", "", *_table(*beside_table(summary.beside)), ""]
    parts += ["## Data sets", "", *_table(TASK_COLUMNS, task_rows(summary)), ""]
    if summary.sweep is not None:
        rows = sweep_rows(summary.sweep)
        parts += ["## Shorter and coarser vectors", "", *_table(SWEEP_COLUMNS, rows), ""]
    groups = provenance(summary.record)
    if groups:
        parts += ["## Provenance", "", "The full record is in run.json.", ""]
    for title, settings in groups.items():
        lines = [f"- {_words(name)}: {_words(value)}" for name, value in settings.items()]
        parts += [f"### {title}", "", *lines, ""]
    return "\n".join(parts)


def reference_notes(summary: Summary) -> list[str]:
    """What the published numbers are and how to read the differences."""
    sources = dict.fromkeys(
        f"{delta.row.title}: {delta.row.source}"
        + (f" ({delta.row.note})" if delta.row.note else "")
        for delta in summary.deltas
    )
    texts = [
        "Within noise: under 0.3 points on a data set or group, under 0.1 on a mean over a "
        f"modality, a split or everything. The run's prompts are those of profile "
        f"{summary.profile}."
    ]
    if len(sources) > _FULL_REFERENCES:
        texts.append("Cells are the published number and, in brackets, the run minus it.")
        refusals = dict.fromkeys(delta.refusal for delta in summary.deltas if delta.refusal)
        texts += [f"{refusal[0].upper()}{refusal[1:]}." for refusal in refusals]
    else:
        texts += [f"{source}." for source in sources]
    return [*texts, *filter(None, [summary.match])]


def as_csv(summary: Summary) -> str:
    """Tasks, then means; numbers in full, empty where there is none."""
    rows = [_csv_task(line) for line in summary.lines]
    for each in summary.means:
        rows.append(
            {
                "level": each.level,
                "modality": each.modality,
                "name": each.name,
                "value": each.value,
                "num_found": each.num_found,
                "num_expected": len(each.members),
            }
        )
    return _csv(CSV_COLUMNS, rows)


def as_json(summary: Summary) -> dict[str, Any]:
    """Everything, as plain data."""
    return {
        "units": "values are shares; found, published and difference of deltas are per cent",
        "model": summary.name,
        "suite": summary.suite,
        "profile": summary.profile,
        "page_sets": list(summary.page_sets),
        "ties": summary.ties,
        "partial": summary.partial,
        "flags": list(summary.flags),
        "absent": list(summary.absent),
        "means": [{**asdict(each), "coverage": each.coverage} for each in summary.means],
        "tasks": [asdict(line) for line in summary.lines],
        "deltas": [
            {
                "reference": delta.row.model,
                "page_set": delta.row.page_set,
                "source": delta.row.source,
                "level": delta.level,
                "name": delta.name,
                "found": delta.found,
                "published": delta.published,
                "difference": delta.difference,
                "verdict": delta.verdict,
            }
            for delta in summary.deltas
        ],
        "beside": None if summary.beside is None else asdict(summary.beside),
        "sweep": None if summary.sweep is None else asdict(summary.sweep),
        "run": dict(summary.record),
    }


def comparison_markdown(comparison: Comparison) -> str:
    parts = [*_table(COMPARISON_COLUMNS, comparison_rows(comparison)), ""]
    parts += [
        f"First: {_words(comparison.names[0])}. Second: {_words(comparison.names[1])}.\n",
        "Differences are second - first, in points, with unadjusted 95 % intervals of the paired "
        f"bootstrap over queries; p is adjusted for all {len(comparison.rows)} rows by Holm's "
        f"rule, a verdict needs p <= {LEVEL}; ties {comparison.ties}.",
        *(f"\n{_words(note)}" for note in comparison.notes),
    ]
    return "\n".join(parts) + "\n"


def comparison_csv(comparison: Comparison) -> str:
    return _csv(_COMPARED, [_compared(row) for row in comparison.rows])


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    rows = [_compared(row) for row in comparison.rows]
    names = dict(zip(("first", "second"), comparison.names, strict=True))
    return {"ties": comparison.ties, **names, "notes": list(comparison.notes), "rows": rows}


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


_COMPARED = ("level", "modality", "name", "num_tasks", "num_queries", "first", "second",
             "difference", "low", "high", "p", "adjusted_p", "verdict")  # fmt: skip


def _compared(row: ComparedRow) -> dict[str, Any]:
    fields = {**asdict(row), "verdict": row.verdict, **asdict(row.interval)}
    return {name: fields[name] for name in _COMPARED}


def _csv_task(line: TaskLine) -> dict[str, Any]:
    return {
        "level": "task",
        "modality": line.card.modality,
        "group": line.card.group,
        "split": line.card.split,
        "name": line.card.name,
        "metric": line.card.main_metric,
        "value": line.value,
        "low": None if line.interval is None else line.interval.low,
        "high": None if line.interval is None else line.interval.high,
        "official": line.official,
        "pessimistic": line.pessimistic,
        "tie_affected": line.tie_affected,
        "num_queries": line.num_queries,
        "num_documents": line.num_documents,
        "num_missing": line.num_missing,
    }


def _csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    """Names come from anywhere: a spreadsheet must not take one for a formula."""
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "replace").decode("utf-8")  # no lone surrogates
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Numbers to the right: a column is of numbers if its first cell begins like one.

    Padded, so that it reads as well in a terminal.
    """
    cells = [[_words(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    right = [bool(cell) and cell[0] in "+-0123456789" for cell in (rows or [columns])[0]]
    marks = [
        "-" * (width - 1) + ":" if aside else "-" * width
        for width, aside in zip(widths, right, strict=True)
    ]
    lines = [
        [
            cell.rjust(width) if aside else cell.ljust(width)
            for cell, width, aside in zip(row, widths, right, strict=True)
        ]
        for row in cells
    ]
    return [f"| {' | '.join(row)} |" for row in (lines[0], marks, *lines[1:])]


_MARKUP = re.compile(r"[\\`*\[\]<>|~#&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def _words(text: str) -> str:
    """Names and ids come from anywhere: no markup, no line break, no end of a cell.

    An underscore between letters or digits marks nothing and stays readable.
    """
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return _MARKUP.sub(r"\\\g<0>", text)
