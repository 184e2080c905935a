"""The HTML report is well formed, stands alone, escapes everything and shows what it was given."""

from __future__ import annotations

import base64
import io
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image as PILImage

from mmembed.html.markup import element, line_chart
from mmembed.html.page import (
    Card,
    Example,
    Hit,
    LineChart,
    Matrix,
    Report,
    Score,
    Series,
    TaskResult,
    series_of_metrics,
    write_report,
)

HOSTILE = "<script>alert('1')</script> & \"quotes\" \x00 \ud800 </style>"


def picture(color: str = "red", size: tuple[int, int] = (64, 48)) -> PILImage.Image:
    return PILImage.new("RGB", size, color)


def png(image: PILImage.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def report(text: str = "a dog") -> Report:
    scores = tuple(Score(f"R@{k} {text}", 0.005 * k, 0.01, (0.25, 0.3125), 0.53) for k in (1, 10))
    query = Card(text=text, caption=text)
    clip = Card(pictures=tuple(np.full((64, 64, 3), 40 * k, np.uint8) for k in range(6)))
    example = Example(
        text,
        query,
        (Hit(Card(pictures=(picture(),), caption=text), 0.9, True), Hit(clip, 0.5, False)),
        comment=text,
    )
    return Report(
        title=text,
        summary=(text,),
        results=(TaskResult(text, 1711, 1911, scores, comment=text),),
        matrix=Matrix(text, (text, "image"), (text, "image"), ((None, 0.4), (0.6, None)), text),
        examples=(example,),
        searches=(example,),
        charts=(LineChart(text, text, text, (Series(text, (1, 2, 3), (3.0, 2.0, 1.5)),), 0.5),),
        environment={text: text},
        seconds={text: 12.5, "evaluation": 2.5},
        attribution=(text,),
    )


def read(path) -> ElementTree.Element:
    page = path.read_text(encoding="utf-8")
    doctype, _, rest = page.partition("\n")
    assert doctype == "<!DOCTYPE html>"
    return ElementTree.fromstring(rest)


def words(node: ElementTree.Element) -> str:
    return " ".join(node.itertext())


def test_report_is_well_formed_and_in_order(tmp_path):
    path = tmp_path / "new folder" / "report.html"
    assert write_report(path, report()) == path
    root = read(path)
    assert root.find("head/title").text == "a dog"
    headings = [node.text for node in root.iter("h2")]
    assert headings == [
        "Results",
        "a dog",
        "What the model finds",
        "Searching a folder of files",
        "Training",
        "Time",
        "Environment",
    ]


def test_empty_parts_leave_no_headings(tmp_path):
    root = read(write_report(tmp_path / "r.html", Report("title", ("nothing yet",))))
    assert not list(root.iter("h2"))
    assert "nothing yet" in words(root)


def test_every_string_is_escaped(tmp_path):
    root = read(write_report(tmp_path / "r.html", report(HOSTILE)))
    assert not list(root.iter("script"))
    shown = words(root)
    # title, summary, result, comment, two metrics, matrix: all of them, as text
    assert shown.count("<script>alert('1')</script>") >= 20
    assert "\x00" not in shown and "\ud800" not in shown


def test_report_refers_to_nothing_outside_itself(tmp_path):
    page = write_report(tmp_path / "r.html", report()).read_text(encoding="utf-8")
    for attribute in re.findall(r'\b(?:src|href|action|data|poster)="([^"]*)"', page):
        assert attribute.startswith("data:image/webp;base64,")
    assert not re.search(r"url\(|@import|<script|<link|<iframe|\bon\w+=", page)
    assert "http" not in page


def test_results_stand_beside_chance_and_the_untrained_model(tmp_path):
    root = read(write_report(tmp_path / "r.html", report()))
    row = root.find(".//section[2]//tbody/tr")
    cells = [words(cell) for cell in row.iter("td")]
    assert cells[:4] == ["0.005", "0.010", "0.250 \u00b7 0.312", "0.530"]
    assert cells[4] == "0.050"
    assert "1,711 queries, 1,911 documents" in words(row)


def test_values_that_are_not_numbers_are_dashes(tmp_path):
    score = Score("R@1", 0.5, math.nan, (), math.inf)
    table = Report("t", (), results=(TaskResult("task", 1, 1, (score,)),))
    row = read(write_report(tmp_path / "r.html", table)).find(".//tbody/tr")
    assert [words(cell) for cell in row.iter("td")] == ["0.500", "\u2013", "\u2013", "\u2013"]
    assert "nan" not in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_hits_are_in_order_and_marked(tmp_path):
    root = read(write_report(tmp_path / "r.html", report()))
    first, second = list(root.find(".//ol").iter("li"))
    assert first.get("class") == "relevant" and second.get("class") is None
    assert "1. 0.900" in " ".join(words(first).split())
    assert [node.get("aria-label") for node in root.find(".//ol").iter("span")].count("wrong") == 1


def thumbnail(tmp_path, *pictures) -> PILImage.Image:
    example = Example("t", Card(pictures=pictures), ())
    root = read(write_report(tmp_path / "r.html", Report("t", (), examples=(example,))))
    data = root.find(".//img").get("src").partition(",")[2]
    return PILImage.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def test_pictures_of_any_kind_become_thumbnails(tmp_path):
    red = picture("red", (640, 320))
    for source in (red, np.asarray(red), png(red)):
        shown = thumbnail(tmp_path, source)
        assert shown.size == (224, 112)
        pixel = shown.getpixel((100, 50))
        assert pixel[0] > 240 and pixel[1] < 15
    assert red.size == (640, 320)  # the caller's picture is left alone


def test_transparent_pictures_are_shown_on_white(tmp_path):
    clear = PILImage.new("RGBA", (32, 32), (0, 0, 0, 0))
    assert min(thumbnail(tmp_path, png(clear)).getpixel((16, 16))) > 250


def test_frames_of_a_clip_become_a_strip_in_reading_order(tmp_path):
    strip = thumbnail(
        tmp_path, *(picture(c, (64, 64)) for c in ("red", "lime", "blue", "white", "black"))
    )
    assert strip.size == (4 * 66 - 2, 2 * 66 - 2)
    assert strip.getpixel((30, 30))[0] > 200
    assert strip.getpixel((96, 30))[1] > 200
    assert max(strip.getpixel((30, 96))) < 30  # the fifth frame opens the second row


def test_rows_that_do_not_fit_are_refused(tmp_path):
    one = TaskResult("first", 1, 1, (Score("R@1", 0, 0, (), 0),))
    other = TaskResult("second", 1, 1, (Score("R@5", 0, 0, (), 0),))
    with pytest.raises(ValueError, match="'second'"):
        write_report(tmp_path / "r.html", Report("t", (), results=(one, other)))
    matrix = Matrix("grid", ("a", "b"), ("a", "b"), ((0.1, 0.2), (0.3,)))
    with pytest.raises(ValueError, match="'grid'"):
        write_report(tmp_path / "r.html", Report("t", (), matrix=matrix))


# -- charts -----------------------------------------------------------------------------------


def chart_of(*series: Series, smoothing: float = 0.0) -> ElementTree.Element:
    return ElementTree.fromstring(line_chart(LineChart("loss", "step", "nats", series, smoothing)))


def polyline(chart: ElementTree.Element, index: int = 0) -> list[tuple[float, float]]:
    points = list(chart.iter("polyline"))[index].get("points")
    return [tuple(map(float, point.split(","))) for point in points.split()]


def test_a_line_goes_through_its_points():
    points = polyline(chart_of(Series("a", (0, 50, 100), (4.0, 2.0, 0.0))))
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1) and y1 - y0 == pytest.approx(y2 - y1)
    assert x0 < x2 and y0 < y2  # SVG's y axis points down


def test_all_points_stay_inside_the_drawing():
    chart = chart_of(
        Series("a", range(7), (1e-5, 3, 2.7, 0.1, 7.3, 5, 6)), Series("b", (9,), (-4,))
    )
    _, _, width, height = map(float, chart.find("svg").get("viewBox").split())
    for x, y in polyline(chart):
        assert 0 <= x <= width and 0 <= y <= height
    assert len(list(chart.iter("circle"))) == 1  # one point is drawn as a dot


@pytest.mark.parametrize("values", [(2.0, 2.0), (0.0, 0.0), (1e-9, 2e-9), (-1e6, 1e6)])
def test_any_range_of_values_can_be_drawn(values):
    assert len(polyline(chart_of(Series("a", (1, 2), values)))) == 2


def test_values_that_are_not_finite_leave_a_gap():
    assert len(polyline(chart_of(Series("a", (1, 2, 3), (1.0, math.nan, 2.0))))) == 2
    assert "no data" in words(chart_of(Series("a", (1,), (math.inf,))))


def test_smoothing_adds_a_calmer_line_and_keeps_the_first_value():
    chart = chart_of(Series("a", range(40), [1 + k % 2 for k in range(40)]), smoothing=0.9)
    raw, smooth = polyline(chart, 0), polyline(chart, 1)
    assert raw[0] == smooth[0]
    spread = [max(y for _, y in line[20:]) - min(y for _, y in line[20:]) for line in (raw, smooth)]
    assert spread[1] < spread[0] / 5


def test_series_come_from_metrics_rows():
    rows = [
        {"step": 1, "loss": 3.0, "temperature": {"a": 0.02, "b": 0.03}},
        {"step": 2, "evaluation": 0.5},
        {"step": 3, "loss": 2.0, "temperature": {"a": 0.01}},
    ]
    assert series_of_metrics(rows, "loss", "stage 1") == (Series("stage 1", [1, 3], [3.0, 2.0]),)
    assert series_of_metrics(rows, "temperature", "stage 1") == (
        Series("stage 1, a", [1, 3], [0.02, 0.01]),
        Series("stage 1, b", [1], [0.03]),
    )
    assert series_of_metrics([], "loss", "stage 1") == ()


def test_plain_strings_are_text_and_elements_are_markup():
    inner = element("b", "<i>", title='"&', hidden=True, lang=None)
    assert inner == '<b title="&quot;&amp;" hidden="hidden">&lt;i&gt;</b>'
    assert element("p", inner, ["x", inner]) == f"<p>{inner}x{inner}</p>"
    assert element("meta", name_="a") == '<meta name="a" />'
