"""What a run logged while it trained, as charts and as one page; from metrics.jsonl alone.

Stages have a section each. The members of a soup and further runs are lines of the same charts, so
that they can be compared. A run that has not ended is shown as far as it is.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmembed.config.files import read_yaml
from mmembed.errors import ConfigError
from mmembed.html.markup import Child, LineChart, Series, element, line_chart
from mmembed.html.page import series_of_metrics, write_page
from mmembed.training.metrics import read_metrics

__all__ = ["StageLog", "read_run", "training_charts", "write_training_report"]

Rows = Sequence[Mapping[str, Any]]

_PLACES = ("metrics.jsonl", "*/metrics.jsonl", "run/*/metrics.jsonl")
_MEMBER = re.compile(r"(.+)-(member\d+)")
_MOST_POINTS = 400  # of a line; more than its pixels would only make the page large


@dataclass(frozen=True)
class StageLog:
    """The rows of one metrics.jsonl.

    Attributes:
        run: the name of the run.
        stage: without the number of a soup's member, which is `member`, or nothing.
        complete: its model has been written.
    """

    run: str
    stage: str
    member: str
    rows: Rows
    complete: bool


@dataclass(frozen=True)
class _Curve:
    """One chart.

    Attributes:
        keys: of a row; each names lines, and `*` stands for the name of a line. Where several logs
            share the chart, only the first of several keys is drawn.
        neutral: a chart on which every value is this is left out.
    """

    title: str
    keys: Mapping[str, str]
    unit: str = ""
    smoothing: float = 0.9
    scale: float = 1.0
    neutral: float | None = None


def _quantiles(name: str) -> dict[str, str]:
    return {f"{name}_q50": "median", f"{name}_q05": "5 %", f"{name}_q95": "95 %"}


_CURVES = (
    _Curve("Loss", {"loss": ""}),
    _Curve("Loss by task", {"task_loss": ""}),
    _Curve("In-batch accuracy", {"accuracy": ""}),
    _Curve("Evaluation: R@1", {"evaluation/*/R@1": ""}, smoothing=0),
    _Curve("Evaluation: R@10", {"evaluation/*/R@10": ""}, smoothing=0),
    _Curve("Evaluation: MRR", {"evaluation/*/MRR": ""}, smoothing=0),
    _Curve("Temperature", {"temperature": ""}, smoothing=0),
    _Curve("Learning rate", {"learning_rate": ""}, smoothing=0),
    _Curve("Gradient norm", {"grad_norm": ""}),
    _Curve("Cosines of positives", _quantiles("positive_similarity")),
    _Curve("Cosines of negatives", _quantiles("negative_similarity")),
    _Curve("Mean cosine of documents", {"document_similarity": ""}, "1 is collapse"),
    _Curve("Alignment", {"alignment": ""}, "squared distance of positives"),
    _Curve("Uniformity", {"uniformity": ""}, "lower is more even"),
    _Curve("Masked share of negatives", {"masked_fraction": ""}, smoothing=0),
    _Curve("Share of repeated documents", {"duplicate_fraction": ""}, smoothing=0),
    _Curve(
        "Hardness weight",
        {"hardness_weight_mean": "mean", "hardness_weight_max": "max"},
        neutral=1.0,
    ),
    _Curve("Speed", {"tokens_per_second": ""}, "tokens per second"),
    _Curve("Samples", {"samples_per_second": ""}, "queries per second"),
    _Curve("Waiting for data", {"data_wait_share": ""}, "share of the time"),
    _Curve("Peak memory", {"peak_memory_bytes": ""}, "GiB", smoothing=0, scale=2.0**-30),
)


def read_run(folder: Path, *, name: str | None = None) -> list[StageLog]:
    """The logs of a run folder, of a folder that holds one (`run`), or of a stage folder.

    Raises:
        ConfigError: nothing was logged there, or a log is damaged.
    """
    files = next((found for place in _PLACES if (found := sorted(folder.glob(place)))), [])
    if not files:
        raise ConfigError(
            f"{folder} holds no metrics.jsonl; give the folder that `mmembed train --output` names"
        )
    order = _stage_names(files[0].parents[1])
    logs = []
    for path in files:
        member = _MEMBER.fullmatch(path.parent.name)
        stage = member[1] if member else path.parent.name
        try:
            rows = read_metrics(path)
        except ValueError as error:
            raise ConfigError(f"{path} is damaged ({error}); remove the broken line") from None
        complete = any((parent / "model").is_dir() for parent in path.parents[:2])
        logs.append(
            StageLog(name or folder.name, stage, member[2] if member else "", rows, complete)
        )
    return sorted(
        logs, key=lambda log: order.index(log.stage) if log.stage in order else len(order)
    )


def _stage_names(run: Path) -> list[str]:
    """The names of the stages in their order, from the settings of the run if they are there."""
    path = run / "recipe.yaml"
    if not path.is_file():
        return []
    fields = read_yaml(path.read_text(encoding="utf-8"), source=str(path))
    stages = fields.get("stages") if isinstance(fields, dict) else None
    return [
        (stage.get("name") if isinstance(stage, dict) else None) or f"stage{number}"
        for number, stage in enumerate(stages or (), start=1)
    ]


def training_charts(
    logs: Mapping[str, Rows], *, titles: Collection[str] | None = None
) -> tuple[LineChart, ...]:
    """Charts of what was logged; what nobody logged is left out.

    Args:
        logs: rows by label; each is a line, or several lines of which the label is the first word.
        titles: only these charts.
    """
    charts = []
    for curve in _CURVES:
        if titles is not None and curve.title not in titles:
            continue
        keys = dict(list(curve.keys.items())[: 1 if len(logs) > 1 else None])
        series = [
            line
            for label, rows in logs.items()
            for key, name in keys.items()
            for line in _lines(rows, key, label, name, curve)
        ]
        values = {value for line in series for value in line.y}
        one_task = curve.title == "Loss by task" and len(series) == len(logs)  # it is the loss
        if series and values != {curve.neutral} and not one_task:
            charts.append(LineChart(curve.title, "step", curve.unit, series, curve.smoothing))
    return tuple(charts)


def _lines(rows: Rows, key: str, label: str, name: str, curve: _Curve) -> list[Series]:
    head, star, tail = key.partition("*")
    found = {key: name}
    if star:
        every = dict.fromkeys(each for row in rows for each in row)
        found = {
            each: each[len(head) : -len(tail)]
            for each in every
            if each.startswith(head) and each.endswith(tail)
        }
    lines = []
    for each, own in found.items():
        full = ", ".join(part for part in (label, own) if part)
        for line in series_of_metrics(rows, each, full):
            x, y = _thinned(line.x), _thinned(line.y)
            shown = line.label.removeprefix(", ") or curve.title.lower()
            lines.append(Series(shown, x, [curve.scale * value for value in y]))
    return lines


def _thinned(values: Sequence[float]) -> list[float]:
    """At most `_MOST_POINTS` values: means of equally many neighbours."""
    size = -(-len(values) // _MOST_POINTS)
    return [statistics.fmean(values[i : i + size]) for i in range(0, len(values), max(1, size))]


def write_training_report(path: Path, runs: Sequence[Path]) -> Path:
    """Write a page that stands alone about one run, or several of them overlaid.

    Raises:
        ConfigError: see `read_run`.
    """
    names = _distinct(runs)
    logs = [log for run, name in zip(runs, names, strict=True) for log in read_run(run, name=name)]
    body: list[Child] = [element("section", _overview(logs), class_="summary wide")]
    for stage in dict.fromkeys(log.stage for log in logs):
        lines = {
            " ".join(part for part in (log.run if len(runs) > 1 else "", log.member) if part): log
            for log in logs
            if log.stage == stage
        }
        charts = training_charts({label: log.rows for label, log in lines.items()})
        drawn = element("div", [line_chart(chart) for chart in charts], class_="charts")
        body.append(element("section", element("h2", stage), drawn))
    return write_page(path, "Training: " + ", ".join(names), body)


def _distinct(runs: Sequence[Path]) -> list[str]:
    """Names of the runs: of their folders, with as many parents as tell them apart."""
    resolved = [run.resolve() for run in runs]
    if len(set(resolved)) < len(runs):
        raise ConfigError("the same run is given twice; give each once")
    for count in range(1, max((len(run.parts) for run in resolved), default=1)):
        names = ["/".join(run.parts[-count:]) for run in resolved]
        if len(set(names)) == len(names):
            return names
    return [str(run) for run in resolved]


_COLUMNS = ("stage", "last step", "loss", "tokens per second", "waiting", "peak memory", "state")


def _overview(logs: Sequence[StageLog]) -> Child:
    head = element("tr", [element("th", name, scope="col") for name in _COLUMNS])
    body = [
        element(
            "tr",
            element("th", " ".join(filter(None, (log.run, log.stage, log.member))), scope="row"),
            [element("td", text) for text in _facts(log)],
        )
        for log in logs
    ]
    return element("table", element("thead", head), element("tbody", body))


def _facts(log: StageLog) -> list[str]:
    steps = [row for row in log.rows if "loss" in row]
    if not steps:
        return ["\u2013"] * 5 + ["nothing logged yet"]
    last = steps[-1]

    def middle(key: str) -> float | None:
        values = [row[key] for row in steps if key in row]
        return statistics.median(values) if values else None

    speed, waiting, peak = (
        middle("tokens_per_second"),
        middle("data_wait_share"),
        last.get("peak_memory_bytes"),
    )
    collapsed = [row["step"] for row in steps if row.get("collapsed")]
    state = "complete" if log.complete else "not finished"
    return [
        f"{last['step']:,}",
        f"{last['loss']:.4f}",
        "\u2013" if speed is None else f"{speed:,.0f}",
        "\u2013" if waiting is None else f"{waiting:.1%}",
        "\u2013" if peak is None else f"{peak / 2**30:.2f} GiB",
        state + (f"; COLLAPSED at step {collapsed[0]:,}" if collapsed else ""),
    ]
