"""HTML elements that cannot forget to escape, and line charts as SVG; for `page.py`.

`element("td", "<b>")` is `<td>&lt;b&gt;</td>`: a child that is a plain `str` is text, only what
`element` returned is markup. The output is HTML that an XML parser reads too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

__all__ = [
    "Child",
    "LineChart",
    "Markup",
    "Series",
    "element",
    "line_chart",
    "span",
    "ticks",
]

_VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})
# Control characters are no XML, not even escaped; a lone surrogate has no bytes in UTF-8.
_UNPRINTABLE = {
    code: "\ufffd" for code in (*range(9), 11, 12, *range(14, 32), 127)
} | dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


class Markup(str):
    """Text that is markup already; only `element` makes it."""

    __slots__ = ()


Child: TypeAlias = "Markup | str | Sequence[Child]"
Attribute: TypeAlias = "str | int | float | bool | None"


def element(name: str, *children: Child, **attributes: Attribute) -> Markup:
    """One element. Attributes: `class_` for `class`, `_` for `-`; True is the bare name, None and
    False leave it out."""
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        assert not children, name
        return Markup(f"<{name}{written} />")
    return Markup(f"<{name}{written}>{_content(children)}</{name}>")


def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    text = key if value is True else f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {key.rstrip("_").replace("_", "-")}="{_escape(text)}"'


def _content(children: Child) -> str:
    if isinstance(children, Markup):
        return children
    if isinstance(children, str):
        return _escape(children)
    return "".join(_content(child) for child in children)


def _escape(text: str) -> str:
    return escape(text.translate(_UNPRINTABLE))


@dataclass(frozen=True)
class Series:
    """One line of a chart; points that are not finite are left out."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class LineChart:
    """Lines over a common x axis. `smoothing` in [0, 1): exponential average drawn on top."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    smoothing: float = 0.0


_WIDTH, _HEIGHT = 440, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 36
_NUM_COLORS = 6


def line_chart(chart: LineChart) -> Markup:
    """A figure with an SVG and a legend. Colours are the classes `line-0` to `line-5`."""
    points = [_finite(series) for series in chart.series]
    everything = [point for line in points for point in line]
    title = element("figcaption", element("strong", chart.title))
    if not everything:
        return element("figure", title, element("p", "no data", class_="muted"), class_="chart")
    x_low, x_high = span([x for x, _ in everything])
    y_ticks = ticks(*span([y for _, y in everything]))
    y_low, y_high = y_ticks[0], y_ticks[-1]
    x_ticks = [tick for tick in ticks(x_low, x_high) if x_low <= tick <= x_high]

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)
        return round(across, 1), round(down, 1)

    parts = []
    for tick in y_ticks:
        _, down = place(x_low, tick)
        parts.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=down, y2=down, class_="grid"))
        parts.append(element("text", f"{tick:.4g}", x=_LEFT - 6, y=down + 4, text_anchor="end"))
    for tick in x_ticks:
        across, _ = place(tick, y_low)
        parts.append(
            element("text", f"{tick:.6g}", x=across, y=_HEIGHT - _BOTTOM + 16, text_anchor="middle")
        )
    parts.append(
        element(
            "text",
            chart.x_label,
            x=(_LEFT + _WIDTH - _RIGHT) / 2,
            y=_HEIGHT - 4,
            text_anchor="middle",
        )
    )
    for index, line in enumerate(points):
        color = f"line-{index % _NUM_COLORS}"
        smooth = _smooth(line, chart.smoothing)
        if chart.smoothing > 0:
            parts.append(_polyline([place(*point) for point in line], f"{color} raw"))
        parts.append(_polyline([place(*point) for point in smooth], color))
    legend = element(
        "ul",
        [
            element(
                "li",
                element("span", class_=f"swatch line-{index % _NUM_COLORS}"),
                series.label,
                element("span", f" {line[-1][1]:.4g}" if line else " no data", class_="muted"),
            )
            for index, (series, line) in enumerate(zip(chart.series, points, strict=True))
        ],
        class_="legend",
    )
    drawing = element(
        "svg",
        parts,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{chart.title}: {chart.y_label} by {chart.x_label}",
    )
    label = element("span", f" {chart.y_label}", class_="muted")
    caption = element("figcaption", element("strong", chart.title), label)
    return element("figure", caption, drawing, legend, class_="chart")


def _polyline(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    if len(points) == 1:  # a line of one point is invisible
        return element("circle", cx=points[0][0], cy=points[0][1], r=3, class_=f"{class_} dot")
    return element("polyline", points=" ".join(f"{x},{y}" for x, y in points), class_=class_)


def _finite(series: Series) -> list[tuple[float, float]]:
    return [
        (float(x), float(y))
        for x, y in zip(series.x, series.y, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]


def span(values: Sequence[float]) -> tuple[float, float]:
    """The least and the largest value; around a single value, some room."""
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(1.0, abs(high)):
        margin = abs(high) * 0.1 or 0.5
        return low - margin, high + margin
    return low, high


def ticks(low: float, high: float) -> list[float]:
    """Round numbers, four to eight, that enclose the interval."""
    raw = (high - low) / 5
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * magnitude for unit in (1, 2, 5, 10) if unit * magnitude >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _smooth(points: Sequence[tuple[float, float]], weight: float) -> list[tuple[float, float]]:
    """Exponential average without the bias of its first values (Adam's correction)."""
    total = norm = 0.0
    smooth = []
    for x, y in points:
        total = weight * total + (1 - weight) * y
        norm = weight * norm + (1 - weight)
        smooth.append((x, total / norm))
    return smooth
