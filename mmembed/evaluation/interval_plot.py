"""Differences with their intervals as an SVG: one line for each comparison, zero in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmembed.html.markup import Child, Markup, element, span, ticks

__all__ = ["Interval", "IntervalPlot", "interval_plot"]


@dataclass(frozen=True)
class Interval:
    """One line of the plot.

    Attributes:
        inner: drawn thick; outer: drawn thin.
        points: single observations, drawn as dots.
        mark: `right`, `wrong` or nothing: the colour.
        note: behind the line.
    """

    label: str
    centre: float
    inner: tuple[float, float]
    outer: tuple[float, float]
    points: tuple[float, ...] = ()
    mark: str = ""
    note: str = ""


@dataclass(frozen=True)
class IntervalPlot:
    """Intervals on a common axis that contains 0."""

    title: str
    x_label: str
    intervals: Sequence[Interval]


_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM, _LINE = 900, 230, 110, 8, 40, 26


def interval_plot(plot: IntervalPlot) -> Markup:
    """A figure with an SVG; intervals that leave 0 to one side have the colour of their mark."""
    caption = element("figcaption", element("strong", plot.title))
    if not plot.intervals:
        return element("figure", caption, element("p", "no data", class_="muted"), class_="chart")
    reach = [edge for each in plot.intervals for edge in (*each.outer, *each.points, 0.0)]
    marks = ticks(*span(reach))
    low, high = marks[0], marks[-1]
    height = _TOP + _LINE * len(plot.intervals) + _BOTTOM

    def across(value: float) -> float:
        return round(_LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT), 1)

    def bar(ends: tuple[float, float], y: float, class_: str) -> Markup:
        return element("line", x1=across(ends[0]), x2=across(ends[1]), y1=y, y2=y, class_=class_)

    parts: list[Child] = []
    for tick in marks:
        kind = "zero" if abs(tick) < 1e-12 * (high - low) else "grid"
        x = across(tick)
        parts.append(element("line", x1=x, x2=x, y1=_TOP, y2=height - _BOTTOM, class_=kind))
        text = f"{tick:.4g}" if kind == "grid" else "0"
        parts.append(element("text", text, x=x, y=height - 22, text_anchor="middle"))
    parts.append(
        element(
            "text",
            plot.x_label,
            x=(_LEFT + _WIDTH - _RIGHT) / 2,
            y=height - 4,
            text_anchor="middle",
        )
    )
    for number, each in enumerate(plot.intervals):
        y = _TOP + _LINE * (number + 0.5)
        parts.append(
            element(
                "g",
                element("text", each.label, x=_LEFT - 10, y=y + 4, text_anchor="end"),
                bar(each.outer, y, "outer"),
                bar(each.inner, y, "inner"),
                [element("circle", cx=across(p), cy=y, r=2.2, class_="seed") for p in each.points],
                element("circle", cx=across(each.centre), cy=y, r=4.5, class_="centre"),
                element("text", each.note, x=_WIDTH - _RIGHT + 10, y=y + 4),
                class_=f"interval {each.mark}".rstrip(),
            )
        )
    drawing = element(
        "svg",
        parts,
        viewBox=f"0 0 {_WIDTH} {height}",
        role="img",
        aria_label=f"{plot.title}: {plot.x_label}",
    )
    return element("figure", caption, drawing, class_="chart")
