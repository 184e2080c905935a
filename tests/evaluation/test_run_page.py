"""The page of a run: well formed, alone, escaped; its gallery shows what the results mean."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image as Pillow

from mmembed.evaluation.gallery import modality_matrix, worst_examples, worst_queries
from mmembed.evaluation.results import RunResults
from mmembed.evaluation.run_page import RunPage, write_run_page
from mmembed.evaluation.summary import summarise
from mmembed.evaluation.sweeps import Sweep, SweepCell
from mmembed.tasks import LoadedTask, RetrievalTask
from mmembed.types import Image, MultimodalInput, Text
from tests.evaluation.made_up_runs import card, hits, result

HOSTILE = "<script>alert('1')</script> & \"quotes\" \x00 </style> ]]>"
CARDS = [card(HOSTILE, "image", HOSTILE, split=HOSTILE), card("b", "visdoc", "VDRv1")]


def text(words: str) -> MultimodalInput:
    return MultimodalInput((Text(words),))


def picture(colour: str) -> MultimodalInput:
    return MultimodalInput((Image(Pillow.new("RGB", (40, 30), colour)),))


def made_up() -> tuple[RunResults, dict[str, LoadedTask]]:
    """Query 0 finds d0 behind d1, query 1 finds its own."""
    tops = [((("d1"), 0.9), ("d0", 0.8)), (("d1", 0.7), ("d0", 0.1))]
    relevant = [(False, True), (True, False)]
    results = {
        each.name: result(
            each, [0.0, 1.0], ids=[HOSTILE, "q1"], tops=tops, relevant=relevant, num_documents=2
        )
        for each in CARDS
    }
    task = RetrievalTask(
        HOSTILE,
        {HOSTILE: text(HOSTILE), "q1": text("blue")},
        {"d0": picture("red"), "d1": picture("blue")},
        {HOSTILE: {"d0": 1.0}, "q1": {"d1": 1.0}},
    )
    record = {"model": HOSTILE, "suite": HOSTILE, "profile": {"name": HOSTILE}, HOSTILE: HOSTILE}
    return RunResults(Path("out"), results, record), {HOSTILE: LoadedTask(task)}


def read(path: Path) -> ElementTree.Element:
    return ElementTree.fromstring(path.read_text("utf-8").removeprefix("<!DOCTYPE html>"))


def words(node: ElementTree.Element) -> str:
    return " ".join(" ".join(node.itertext()).split())


def headings(page: ElementTree.Element) -> list[str]:
    return [words(each) for each in page.iter("h2")]


def test_a_hostile_run_makes_a_page_that_is_well_formed_and_alone(tmp_path: Path):
    done, tasks = made_up()
    sweep = Sweep(
        ("b",), (SweepCell(64, "float32", 256, 0.5, {}), SweepCell(64, "binary", 8, 0.25, {}))
    )
    summary = summarise(done, CARDS, sweep=sweep)
    page = RunPage(
        summary,
        matrix=modality_matrix(done, tasks),
        examples=worst_examples(done, tasks),
        notes=(HOSTILE,),
    )
    path = write_run_page(tmp_path / "new" / "report.html", page)
    content = path.read_text("utf-8")
    assert "<script" not in content
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|<link", content)
    found = read(path)
    assert "alert('1')" in words(next(found.iter("h1")))
    assert headings(found) == [
        "Read this first", "Means", "Data sets", "Shorter and coarser vectors", "Worst queries",
        "Provenance",
    ]  # fmt: skip


def test_bars_and_whiskers_are_drawn_to_scale(tmp_path: Path):
    of = card("a")
    done = RunResults(Path("out"), {"a": result(of, hits(100, 0.25))})
    summary = summarise(done, [of])
    page = read(write_run_page(tmp_path / "r.html", RunPage(summary)))
    drawing = [each for each in page.iter("svg")][-1]
    width = float(drawing.get("viewBox").split()[2])
    assert float(drawing.find("rect").get("width")) == 0.25 * width
    whisker = drawing.find("line")
    interval = summary.lines[0].interval
    ends = [round(interval.low * width, 1), round(interval.high * width, 1)]
    assert [float(whisker.get("x1")), float(whisker.get("x2"))] == ends
    assert "25.00" in words(page)


def test_the_gallery_shows_query_and_documents_with_marks(tmp_path: Path):
    done, tasks = made_up()
    examples = worst_examples(done, tasks)
    assert len(examples) == 2  # one of each task; only the queries that are not answered
    shown = next(each for each in examples if each.query.text)
    assert shown.query.text == HOSTILE
    assert [hit.is_relevant for hit in shown.hits] == [False, True]
    assert all(hit.card.pictures for hit in shown.hits)
    page = RunPage(summarise(done, CARDS), examples=examples)
    found = read(write_run_page(tmp_path / "r.html", page))
    marks = [each.get("aria-label") for each in found.iter("span") if each.get("role") == "img"]
    assert marks == ["wrong", "right"] * 2
    assert sum(each.get("src", "").startswith("data:image/webp") for each in found.iter("img")) == 2


def test_without_data_the_gallery_shows_ids():
    done, _ = made_up()
    examples = worst_examples(done, {})
    assert [each.query.caption for each in examples] == [HOSTILE, HOSTILE]
    assert [hit.card.caption for hit in examples[0].hits] == ["d1", "d0"]
    assert not any(hit.card.pictures or hit.card.text for each in examples for hit in each.hits)


def test_a_picture_that_is_gone_is_said_to_be(tmp_path: Path):
    done, tasks = made_up()
    task = tasks[HOSTILE].task
    gone = MultimodalInput((Image(tmp_path / "gone.png"),))
    broken = RetrievalTask(task.name, task.queries, {**task.corpus, "d1": gone}, task.relevant)
    examples = worst_examples(done, {HOSTILE: LoadedTask(broken)})
    shown = next(each for each in examples if each.query.text)
    assert shown.hits[0].card.caption == "d1; cannot be shown: not_found (gone.png)"


def test_answers_that_are_far_down_are_named():
    tops = [tuple((f"w{n}", 1 - n / 10) for n in range(10))]
    of = card("a")
    done = RunResults(Path("out"), {"a": result(of, [0.0], tops=tops, relevant=[(False,) * 10])})
    corpus = {name: text(name) for name in [f"w{n}" for n in range(10)] + ["right"]}
    task = RetrievalTask("a", {"q0": text("?")}, corpus, {"q0": {"right": 1.0, "w0": 0.0}})
    example = worst_examples(done, {"a": LoadedTask(task)})[0]
    assert example.comment == "right would be: right"
    assert len(example.hits) == 5


def test_the_worst_query_is_the_surest_mistake():
    tops = [(("x", 0.3), ("y", 0.2)), (("x", 0.9), ("y", 0.2)), (("x", 0.9), ("y", 0.2)), ()]
    tops += [tops[0]]  # answered in full
    relevant = [(False, False), (False, False), (True, False), (), (True, False)]
    judged = result("a", [0.0, 0.0, 0.5, 0.0, 1.0], tops=tops, relevant=relevant)
    assert [query.id for query in worst_queries(judged, 5)] == ["q1", "q0", "q2"]
    assert [query.id for query in worst_queries(judged, 1)] == ["q1"]


def test_modalities_meet_in_a_matrix():
    done, tasks = made_up()
    both = {
        **tasks,
        "b": LoadedTask(RetrievalTask("b", {"q": picture("red")}, {"d": text("x")}, {})),
    }
    found = modality_matrix(done, both)
    assert (found.rows, found.columns) == (("image", "text"), ("image", "text"))
    assert found.values == ((None, 0.5), (0.5, None))
    assert modality_matrix(done, tasks) is None
