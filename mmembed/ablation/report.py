"""Tables and the page of an ablation: the same numbers for the terminal, Markdown and a browser."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from mmembed.ablation.analysis import (
    Outcome,
    Records,
    compare,
    mean_training,
    measures,
    noise,
    verdicts,
)
from mmembed.ablation.plan import MEMBERS, Ablation, Measure, Run
from mmembed.evaluation.interval_plot import Interval, IntervalPlot, interval_plot
from mmembed.evaluation.significance import LEVEL
from mmembed.html.markup import Child, Markup, element
from mmembed.html.page import write_page

__all__ = [
    "explanation",
    "markdown",
    "noise_rows",
    "terminal_table",
    "write_html",
    "write_markdown",
]

_COLUMNS = ("arm", "against", "seeds", "mean", "difference", "95 % interval", "p", "verdict")
_MARKS = {"better": "right", "worse": "wrong"}
_DASH = "\u2013"


def explanation(plan: Ablation, records: Records) -> tuple[str, ...]:
    """How the numbers came about and how to read them."""
    comparisons = plan.comparisons()
    done = [run for run in plan.runs() if run in records]
    return (
        f"{len(done)} of {len(plan.runs())} runs are done: {len(plan.arms)} arms on "
        f"{len(plan.problems)} problems with {len(plan.seeds)} seeds. An arm and what it is "
        "compared with start from the same weights and read the same rows in the same order; "
        "the unit of all statistics is the seed.",
        "The measure that verdicts are about heads each table; it is fixed in the experiment file. "
        "Every metric is higher for a better model and a difference above 0 is better than "
        f"the reference. {len(comparisons)} comparisons were made in it; p is adjusted for all of "
        f"them by Holm's rule, and a verdict other than `no difference seen` needs p <= {LEVEL}. "
        "Intervals in tables are 95 % intervals of one comparison (Student's t, paired), as are "
        "the thick bars of plots; the thin bars are at the level at which Holm's rule tests the "
        "comparison. `No difference seen` does not mean that there is none: see the noise below. "
        "A certain difference may be a small one: 0.01 in -ln rank is ranks 1 % lower.",
        "Other measures are shown without adjustment and without verdicts: among so many, one in "
        "twenty leaves 0 by chance.",
        "The models are small, trained from nothing for seconds. What holds here may not hold for "
        "large pretrained models, and nothing was tuned for any arm but the control.",
    )


def terminal_table(plan: Ablation, records: Records, problem: str) -> Table:
    """The primary measure on one problem."""
    table = Table(title=f"{problem}: {plan.primary_of(problem)}", title_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("arm", "against") else "right")
    for row in _rows(plan, records, problem):
        table.add_row(*row)
    return table


def markdown(plan: Ablation, records: Records) -> str:
    """Everything as Markdown: explanation, tables of all measures, noise."""
    lines = ["# Ablation", ""]
    for paragraph in explanation(plan, records):
        lines += [paragraph, ""]
    for problem in plan.problems:
        lines += [f"## {problem.name}", "", *([problem.comment, ""] if problem.comment else [])]
        lines += [f"In {plan.primary_of(problem.name)}:", ""]
        lines += _markdown_table(_COLUMNS, _rows(plan, records, problem.name))
        lines += ["", "Differences in every measure, with unadjusted 95 % intervals:", ""]
        lines += [*_markdown_table(*_all_measures(plan, records, problem.name)), ""]
    lines += ["## Noise", "", *_markdown_table(*noise_rows(plan, records)), ""]
    return "\n".join(lines)


def write_markdown(path: Path, plan: Ablation, records: Records) -> Path:
    path.write_text(markdown(plan, records), encoding="utf-8", newline="\n")
    return path


def write_html(
    path: Path,
    plan: Ablation,
    records: Records,
    *,
    environment: Mapping[str, str],
) -> Path:
    """The page with plots."""
    summary = [element("p", text) for text in explanation(plan, records)]
    body: list[Child] = [element("section", summary, class_="summary")]
    for problem in plan.problems:
        plots = [
            interval_plot(_plot(plan, records, measure, problem.name))
            for measure in measures(plan, problem.name)
            if measure.metric == plan.primary_of(problem.name).metric
        ]
        rows = _rows(plan, records, problem.name)
        body += [
            element("h2", problem.name),
            element("p", problem.comment) if problem.comment else "",
            element("div", plots, class_="intervals"),
            element("h3", str(plan.primary_of(problem.name))),
            _html_table(_COLUMNS, rows),
            element("h3", "All measures: difference and unadjusted 95 % interval"),
            _html_table(*_all_measures(plan, records, problem.name)),
            element("h3", "In training: means of the last quarter of the steps"),
            _training(plan, records, problem.name),
        ]
    names, rows = noise_rows(plan, records)
    body += [element("h2", "Noise"), _html_table(names, rows)]
    body += [element("h2", "Arms"), _arms(plan)]
    pairs = [(element("dt", name), element("dd", value)) for name, value in environment.items()]
    body += [element("h2", "Environment"), element("dl", pairs)]
    return write_page(path, "Ablation", body)


def noise_rows(plan: Ablation, records: Records) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of the table of noise."""
    columns = (
        "problem",
        "measure",
        "seeds",
        "mean of the control",
        "sd over seeds",
        "sd of a paired difference (median arm)",
        "visible difference, one comparison",
        "visible difference, all comparisons",
    )
    rows = [
        (
            row.problem,
            str(row.measure),
            str(row.num_seeds),
            *(f"{number:.4f}" for number in (row.mean, row.sd, row.paired_sd)),
            *(f"{number:.4f}" for number in (row.visible, row.visible_adjusted)),
        )
        for row in noise(plan, records)
    ]
    return columns, rows


def _rows(plan: Ablation, records: Records, problem: str) -> list[tuple[str, ...]]:
    """The table of the primary measure."""
    rows: list[tuple[str, ...]] = []
    for each in verdicts(plan, records):
        if each.comparison.problem != problem:
            continue
        mean = _DASH if each.mean is None else f"{each.mean:.3f}"
        names = (each.comparison.arm, _against(each))
        if each.difference is None:
            rows.append((*names, "0", mean, _DASH, _DASH, _DASH, each.verdict))
            continue
        low, high = each.difference.interval()
        p = _DASH if each.adjusted_p is None else f"{each.adjusted_p:.3f}"
        rows.append(
            (
                *names,
                str(len(each.difference.values)),
                mean,
                f"{each.difference.mean:+.3f}",
                f"{low:+.3f} .. {high:+.3f}",
                "<.001" if p == "0.000" else p,
                each.verdict,
            )
        )
    return rows


def _against(outcome: Outcome) -> str:
    against = outcome.comparison.against
    return "its members" if against == MEMBERS else against


def _short(outcome: Outcome) -> str:
    if outcome.difference is None:
        return _DASH
    low, high = outcome.difference.interval()
    return f"{outcome.difference.mean:+.3f} ({low:+.3f} .. {high:+.3f})"


def _label(plan: Ablation, outcome: Outcome) -> str:
    against = outcome.comparison.against
    return outcome.comparison.arm + ("" if against == plan.control else f" vs {_against(outcome)}")


def _plot(plan: Ablation, records: Records, measure: Measure, problem: str) -> IntervalPlot:
    primary = measure == plan.primary_of(problem)
    outcomes = (
        [each for each in verdicts(plan, records) if each.comparison.problem == problem]
        if primary
        else compare(plan, records, measure, problem)
    )
    intervals = [
        Interval(
            label=_label(plan, each),
            centre=each.difference.mean,
            inner=each.difference.interval(),
            outer=each.difference.interval(each.level),
            points=each.difference.values,
            mark=_MARKS.get(each.verdict, "") if primary else "",
            note=each.verdict if primary else "",
        )
        for each in outcomes
        if each.difference is not None
    ]
    kind = "primary measure" if primary else "unadjusted, no verdicts"
    return IntervalPlot(f"{measure} ({kind})", "worse  <  difference  >  better", intervals)


def _all_measures(
    plan: Ablation, records: Records, problem: str
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows: every comparison in every measure."""
    every = measures(plan, problem)
    by_measure = [compare(plan, records, measure, problem) for measure in every]
    rows = [
        (_label(plan, outcomes[0]), *map(_short, outcomes))
        for outcomes in zip(*by_measure, strict=True)
    ]
    return ("arm", *map(str, every)), rows


def _training(plan: Ablation, records: Records, problem: str) -> Markup:
    arms = [arm for arm in plan.arms if problem in plan.problems_of(arm)]
    runs = {arm.name: [Run(problem, arm.name, seed) for seed in plan.seeds] for arm in arms}
    found = {
        name
        for run in plan.runs()
        if run.problem == problem and run in records
        for name in records[run].training
    }
    names = sorted(found)
    rows = []
    for arm in arms:
        values = [mean_training(records, runs[arm.name], name) for name in names]
        seconds = [records[run].seconds for run in runs[arm.name] if run in records]
        rows.append(
            (
                arm.name,
                *(_DASH if value is None else f"{value:.4f}" for value in values),
                f"{statistics.fmean(seconds):.1f}" if seconds else _DASH,
            )
        )
    return _html_table(("arm", *names, "seconds of a run"), rows)


def _arms(plan: Ablation) -> Markup:
    head = element("tr", [element("th", name) for name in ("arm", "changes", "question")])
    rows = [
        element(
            "tr",
            element("th", arm.name, scope="row"),
            element("td", ", ".join(arm.set) or "none", class_="words"),
            element("td", arm.comment, class_="words"),
        )
        for arm in plan.arms
    ]
    table = element("table", element("thead", head), element("tbody", rows))
    return element("div", table, class_="wide")


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    head = element("tr", [element("th", name, scope="col") for name in columns])
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            [element("td", cell, class_=_MARKS.get(cell)) for cell in row[1:]],
        )
        for row in rows
    ]
    table = element("table", element("thead", head), element("tbody", body))
    return element("div", table, class_="wide")


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(columns), line(["---"] * len(columns)), *map(line, rows)]
