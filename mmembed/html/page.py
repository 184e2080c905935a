"""One HTML file that shows what a trained model does: numbers, pictures, curves.

The file stands alone: inline style, SVG charts, thumbnails as data URIs, no script, no address of
anything else. Callers fill plain dataclasses; everything in them is text or pixels and is escaped
here. `mmembed quickstart` writes it; any run that has the numbers can.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mmembed.html.markup import Child, LineChart, Markup, Series, element, line_chart

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as PILImage

__all__ = [
    "Card",
    "Example",
    "Hit",
    "LineChart",
    "Matrix",
    "Report",
    "Score",
    "Series",
    "TaskResult",
    "card_figure",
    "example_article",
    "matrix_table",
    "section",
    "series_of_metrics",
    "write_page",
    "write_report",
]

_STYLE = Path(__file__).with_name("page.css")

Picture: TypeAlias = "np.ndarray | PILImage | bytes"


@dataclass(frozen=True)
class Score:
    """One metric of one task. `members` are the models that the soup averages."""

    metric: str
    chance: float
    untrained: float
    members: tuple[float, ...]
    soup: float


@dataclass(frozen=True)
class TaskResult:
    """A row of the results table; all tasks have the same metrics in the same order."""

    name: str
    num_queries: int
    num_documents: int
    scores: tuple[Score, ...]
    comment: str = ""


@dataclass(frozen=True)
class Card:
    """A query or document: text, or pictures (several are the frames of a clip, in order).

    A picture is a uint8 (H, W, 3) array, a PIL image, or the bytes of an image file. `caption`
    says what it is: a name, a file and its page or time.
    """

    text: str | None = None
    pictures: tuple[Picture, ...] = ()
    caption: str = ""


@dataclass(frozen=True)
class Hit:
    """A document that was found, best first in `Example.hits`."""

    card: Card
    score: float
    is_relevant: bool | None = None


@dataclass(frozen=True)
class Example:
    """A query with what was found. `title` names the task, `text -> video`."""

    title: str
    query: Card
    hits: tuple[Hit, ...]
    comment: str = ""


@dataclass(frozen=True)
class Matrix:
    """Values by row and column, such as modalities searched in each other; None is left blank."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    comment: str = ""


@dataclass(frozen=True)
class Report:
    """Everything on the page, in its order."""

    title: str
    summary: tuple[str, ...]
    results: tuple[TaskResult, ...] = ()
    matrix: Matrix | None = None
    examples: tuple[Example, ...] = ()
    searches: tuple[Example, ...] = ()
    charts: tuple[LineChart, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    attribution: tuple[str, ...] = ()


def write_report(path: Path, report: Report) -> Path:
    """Write `report` to `path` and return it.

    Raises:
        ValueError: rows of the results table or of the matrix do not fit together.
    """
    return write_page(path, report.title, _body(report))


def write_page(path: Path, title: str, body: Child) -> Path:
    """Write a page of this style that stands alone; `title` is also its first heading."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(_STYLE.read_text(encoding="utf-8"))),
    )
    main = element("main", element("h1", title), body)
    page = element("html", head, element("body", main), lang="en")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<!DOCTYPE html>\n{page}\n", encoding="utf-8", newline="\n")
    return path


def series_of_metrics(
    rows: Sequence[Mapping[str, Any]], key: str, label: str
) -> tuple[Series, ...]:
    """Lines of one key of `metrics.jsonl` rows, over their `step`.

    A value that is itself a mapping (temperatures by task group) gives a line for each of its
    entries, labelled `label, entry`. Rows without the key are skipped.
    """
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        value = row.get(key)
        if value is None:
            continue
        named = value.items() if isinstance(value, Mapping) else [("", value)]
        for name, number in named:
            steps, numbers = lines.setdefault(name, ([], []))
            steps.append(float(row["step"]))
            numbers.append(float(number))
    return tuple(
        Series(f"{label}, {name}" if name else label, steps, numbers)
        for name, (steps, numbers) in lines.items()
    )


# -- the page ---------------------------------------------------------------------------------


def _body(report: Report) -> list[Child]:
    body: list[Child] = [
        element("section", [element("p", text) for text in report.summary], class_="summary"),
    ]
    if report.results:
        body.append(section("Results", _results(report.results)))
    if report.matrix is not None:
        body.append(section(report.matrix.title, matrix_table(report.matrix)))
    if report.examples:
        body.append(section("What the model finds", *map(example_article, report.examples)))
    if report.searches:
        body.append(section("Searching a folder of files", *map(example_article, report.searches)))
    if report.charts:
        charts = element("div", [line_chart(chart) for chart in report.charts], class_="charts")
        body.append(section("Training", charts))
    if report.seconds:
        body.append(section("Time", _times(report.seconds)))
    if report.environment:
        pairs = [
            (element("dt", name), element("dd", value))
            for name, value in report.environment.items()
        ]
        body.append(section("Environment", element("dl", pairs)))
    if report.attribution:
        notes = [element("p", text) for text in report.attribution]
        body.append(element("footer", notes))
    return body


def section(title: str, *children: Child) -> Markup:
    return element("section", element("h2", title), children)


def _results(results: Sequence[TaskResult]) -> Child:
    metrics = [score.metric for score in results[0].scores]
    for result in results:
        found = [score.metric for score in result.scores]
        if found != metrics:
            raise ValueError(f"task {result.name!r} has metrics {found}, the first has {metrics}")
    kinds = ("chance", "untrained", "members", "soup")
    top = element(
        "tr",
        element("th", "task", rowspan=2, scope="col"),
        [element("th", name, colspan=len(kinds), scope="colgroup") for name in metrics],
    )
    second = element("tr", [[element("th", kind, scope="col") for kind in kinds]] * len(metrics))
    rows = []
    for result in results:
        sizes = f"{result.num_queries:,} queries, {result.num_documents:,} documents"
        comment = f"; {result.comment}" if result.comment else ""
        cells: list[Child] = [
            element(
                "th",
                result.name,
                element("span", sizes + comment, class_="sizes"),
                scope="row",
            )
        ]
        for score in result.scores:
            members = " \u00b7 ".join(map(_number, score.members)) or "\u2013"
            cells += [
                element("td", _number(score.chance), class_="muted"),
                element("td", _number(score.untrained), class_="muted"),
                element("td", members),
                element("td", _number(score.soup), class_="bar", style=_fill(score.soup)),
            ]
        rows.append(element("tr", cells))
    table = element("table", element("thead", top, second), element("tbody", rows))
    return element("div", table, class_="wide")


def matrix_table(
    matrix: Matrix, *, corner: str = "query \\ corpus", percent: bool = False
) -> Child:
    """The matrix with shades; `percent` shows shares as such."""
    widths = {len(row) for row in matrix.values}
    if len(matrix.values) != len(matrix.rows) or widths - {len(matrix.columns)}:
        raise ValueError(
            f"matrix {matrix.title!r} has {len(matrix.rows)} rows and {len(matrix.columns)} "
            f"columns of labels, but values of {len(matrix.values)} x {sorted(widths)}"
        )
    head = element(
        "tr",
        element("th", corner, class_="muted"),
        [element("th", name, scope="col") for name in matrix.columns],
    )
    rows = [
        element(
            "tr",
            element("th", name, scope="row"),
            [
                element("td", "", class_="blank")
                if value is None
                else element("td", _shown(value, percent), class_="heat", style=_fill(value))
                for value in values
            ],
        )
        for name, values in zip(matrix.rows, matrix.values, strict=True)
    ]
    table = element("table", element("thead", head), element("tbody", rows), class_="matrix")
    comment = element("p", matrix.comment, class_="muted") if matrix.comment else ""
    return [element("div", table, class_="wide"), comment]


def example_article(example: Example) -> Markup:
    comment = element("p", example.comment, class_="muted") if example.comment else ""
    hits = [_hit(rank, hit) for rank, hit in enumerate(example.hits, start=1)]
    query = element("div", card_figure(example.query), class_="query")
    found = element("ol", hits, class_="hits")
    return element(
        "article", element("h3", example.title), element("div", query, found, class_="row"), comment
    )


def _hit(rank: int, hit: Hit) -> Markup:
    mark: Child = ""
    if hit.is_relevant is not None:
        word = "right" if hit.is_relevant else "wrong"
        sign = "\u2713" if hit.is_relevant else "\u2717"
        mark = element("span", sign, class_=f"mark {word}", role="img", aria_label=word)
    score = element("span", f"{rank}. ", f"{hit.score:.3f} ", mark, class_="score")
    return element(
        "li", card_figure(hit.card), score, class_="relevant" if hit.is_relevant else None
    )


def card_figure(card: Card) -> Markup:
    shown: list[Child] = []
    if card.pictures:
        alt = card.caption or ("clip" if len(card.pictures) > 1 else "picture")
        shown.append(element("img", src=_thumbnail(card.pictures), alt=alt, loading="lazy"))
    if card.text is not None:
        shown.append(element("blockquote", card.text, dir="auto"))
    if card.caption:
        shown.append(element("figcaption", card.caption, dir="auto"))
    return element("figure", shown, class_="card")


def _times(seconds: Mapping[str, float]) -> Markup:
    longest = max([*seconds.values(), 1e-9])
    rows = [
        element(
            "tr",
            element("th", name, scope="row"),
            element("td", f"{value:,.1f} s", class_="bar", style=_fill(value / longest)),
        )
        for name, value in seconds.items()
    ]
    total = element(
        "tr", element("th", "total", scope="row"), element("td", f"{sum(seconds.values()):,.1f} s")
    )
    return element("table", element("tbody", rows, total), class_="times")


def _shown(value: float, percent: bool) -> str:
    return f"{100 * value:.1f}" if percent else _number(value)


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "\u2013"


def _fill(value: float) -> str:
    share = min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0
    return f"--share: {100 * share:.1f}%"


# -- pictures ---------------------------------------------------------------------------------

_LONGEST_SIDE = 224
_GAP = 2


def _thumbnail(pictures: Sequence[Picture]) -> str:
    """A WebP data URI; the frames of a clip become a strip, read in rows of four."""
    from PIL import Image

    longest = _LONGEST_SIDE if len(pictures) == 1 else 64
    frames = []
    for picture in pictures:
        frame = _open(picture)
        frame.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        frames.append(frame)
    strip = frames[0]
    if len(frames) > 1:
        columns = min(4, len(frames))
        width = max(frame.width for frame in frames) + _GAP
        height = max(frame.height for frame in frames) + _GAP
        rows = math.ceil(len(frames) / columns)
        strip = Image.new("RGB", (columns * width - _GAP, rows * height - _GAP), (128, 128, 128))
        for index, frame in enumerate(frames):
            strip.paste(frame, (index % columns * width, index // columns * height))
    buffer = io.BytesIO()
    strip.save(buffer, "WEBP", quality=85, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _open(picture: Picture) -> PILImage:
    from PIL import Image

    if isinstance(picture, bytes):
        with Image.open(io.BytesIO(picture)) as opened:
            opened.load()
            picture = opened
    elif not isinstance(picture, Image.Image):
        picture = Image.fromarray(picture)
    if picture.mode == "RGB":
        return picture.copy()
    sprite = picture.convert("RGBA")
    flat = Image.new("RGB", sprite.size, "white")
    flat.paste(sprite, mask=sprite)
    return flat
