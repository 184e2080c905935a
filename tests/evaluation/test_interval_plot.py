"""The plot of differences: where things are drawn, and that it is XML whatever the labels say."""

from __future__ import annotations

from xml.etree import ElementTree

from mmembed.evaluation.interval_plot import Interval, IntervalPlot, interval_plot


def draw(*intervals: Interval) -> ElementTree.Element:
    return ElementTree.fromstring(interval_plot(IntervalPlot("a < b", "difference", intervals)))


def place(element: ElementTree.Element, name: str) -> float:
    return float(element.attrib[name])


def test_bars_and_points_stand_in_proportion_to_their_values():
    interval = Interval("x", 1.0, (0.5, 1.5), (-1.0, 3.0), points=(0.0, 2.0), mark="right")
    (group,) = draw(interval).iter("g")
    lines = {line.attrib["class"]: line for line in group.iter("line")}
    outer, inner = lines["outer"], lines["inner"]
    low, unit = place(outer, "x1"), (place(outer, "x2") - place(outer, "x1")) / 4

    def close(found: float, value: float) -> bool:
        return abs(found - (low + (value + 1) * unit)) < 0.2

    assert close(place(inner, "x1"), 0.5)
    assert close(place(inner, "x2"), 1.5)
    circles = [place(circle, "cx") for circle in group.iter("circle")]
    assert all(map(close, circles, (0.0, 2.0, 1.0)))
    assert group.attrib["class"] == "interval right"


def test_zero_is_on_the_axis_even_where_no_interval_reaches_it():
    figure = draw(Interval("x", 5.0, (4.0, 6.0), (3.0, 7.0)))
    (zero,) = [line for line in figure.iter("line") if line.attrib["class"] == "zero"]
    (group,) = figure.iter("g")
    assert place(zero, "x1") < min(place(line, "x1") for line in group.iter("line"))


def test_no_difference_at_all_is_drawn_at_zero():
    figure = draw(Interval("same", 0.0, (0.0, 0.0), (0.0, 0.0), points=(0.0, 0.0)))
    (zero,) = [line for line in figure.iter("line") if line.attrib["class"] == "zero"]
    (group,) = figure.iter("g")
    assert {place(circle, "cx") for circle in group.iter("circle")} == {place(zero, "x1")}


def test_labels_are_escaped_and_nothing_is_drawn_of_nothing():
    figure = draw(Interval("<b>&", 1.0, (0.0, 2.0), (0.0, 2.0), note="better"))
    texts = [text.text for text in figure.iter("text")]
    assert "<b>&" in texts and "better" in texts
    assert "no data" in "".join(draw().itertext())
