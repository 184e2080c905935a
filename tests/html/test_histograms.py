"""Bars are as high as their counts, and every count is written for those who point at it."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from mmembed.html.histograms import BarChart, bar_chart

HOSTILE = "<script>alert('1')</script> & \"quotes\""


def test_bars_are_as_high_as_their_counts() -> None:
    chart = BarChart("lengths", ["1", "2", "4", "8"], [10, 0, 1000, 1], "words")
    bars = ElementTree.fromstring(bar_chart(chart)).findall(".//rect")
    heights = [float(bar.get("height")) for bar in bars]
    assert heights[0] == pytest.approx(heights[2] / 100, abs=0.1)
    assert heights[1] == 0 and heights[3] == 1  # one of a thousand is still seen
    assert [bar.find("title").text for bar in bars] == ["1: 10", "2: 0", "4: 1,000", "8: 1"]
    bottoms = {round(float(bar.get("y")) + float(bar.get("height")), 1) for bar in bars}
    assert len(bottoms) == 1


def test_many_bars_have_few_labels_and_everything_is_escaped() -> None:
    chart = BarChart(HOSTILE, [HOSTILE] * 50, range(50), HOSTILE)
    tree = ElementTree.fromstring(bar_chart(chart))
    assert len(tree.findall(".//text")) <= 6 and len(tree.findall(".//rect")) == 50
    assert "<script" not in bar_chart(chart)


def test_nothing_to_count_is_said() -> None:
    assert "none" in bar_chart(BarChart("lengths", [], []))
