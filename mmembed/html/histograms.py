"""Bars of a page: how many rows have a text this long, a picture this large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmembed.html.markup import Markup, element

__all__ = ["BarChart", "bar_chart"]

_WIDTH, _HEIGHT = 440, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 12, 12, 8, 34
_SHOWN_LABELS = 6


@dataclass(frozen=True)
class BarChart:
    """`labels` are of the bars, in order; about six of them are written. `note`: in a few words."""

    title: str
    labels: Sequence[str]
    counts: Sequence[int]
    note: str = ""


def bar_chart(chart: BarChart) -> Markup:
    """A figure with an SVG; a bar that is not empty is at least one pixel high."""
    assert len(chart.labels) == len(chart.counts), chart.title
    caption = element(
        "figcaption",
        element("strong", chart.title),
        element("span", f" {chart.note}", class_="muted"),
    )
    if not chart.counts:
        return element("figure", caption, element("p", "none", class_="muted"), class_="chart")
    most = max(*chart.counts, 1)
    step = (_WIDTH - _LEFT - _RIGHT) / len(chart.counts)
    floor = _HEIGHT - _BOTTOM
    every = -(-len(chart.counts) // _SHOWN_LABELS)
    parts = []
    for number, (label, count) in enumerate(zip(chart.labels, chart.counts, strict=True)):
        height = max(count / most * (floor - _TOP), 1.0) if count else 0.0
        left = round(_LEFT + number * step, 1)
        words = element("title", f"{label}: {count:,}")
        parts.append(
            element(
                "rect",
                words,
                x=left,
                y=round(floor - height, 1),
                width=round(max(step - 1, 1), 1),
                height=round(height, 1),
            )
        )
        if number % every == 0:
            middle = round(left + step / 2, 1)
            parts.append(element("text", label, x=middle, y=floor + 16, text_anchor="middle"))
    parts.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=floor, y2=floor, class_="grid"))
    drawing = element(
        "svg", parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=chart.title
    )
    return element("figure", caption, drawing, class_="chart bars")
