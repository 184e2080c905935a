"""Reports as text: nothing is lost in CSV, nothing breaks out of Markdown, flags are said."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from mmembed.evaluation import tables
from mmembed.evaluation.aggregation import means
from mmembed.evaluation.comparison import compare_runs
from mmembed.evaluation.reference_scores import compare_with, load_references
from mmembed.evaluation.results import RunResults
from mmembed.evaluation.summary import summarise
from tests.evaluation.made_up_runs import card, hits, result, run

HOSTILE = 'a|b <script>*x*</script> "q", `c`\n# d'
CARDS = [
    card("cls", "image", "I-CLS", split="IND"),
    card(HOSTILE, "image", "I-QA", split="OOD"),
    card("pages", "visdoc", "VDRv1"),
    card("absent", "visdoc", "VDRv1"),
]


def some_run(**record) -> RunResults:
    results = (
        result(CARDS[0], hits(37, 0.31)),
        result(CARDS[1], hits(40, 0.5), official=hits(40, 0.6)),
        result(CARDS[2], hits(40, 0.5), missing=("p1.png", "p2.png")),
    )
    return RunResults(Path("out"), {each.name: each for each in results}, record)


def test_csv_comes_back_with_every_digit():
    summary = summarise(some_run(), CARDS)
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(summary))))
    assert tuple(rows[0]) == tables.CSV_COLUMNS
    by_name = {row["name"]: row for row in rows if row["level"] == "task"}
    assert list(by_name) == ["cls", HOSTILE, "pages"]
    for line in summary.lines:
        row = by_name[line.card.name]
        assert float(row["value"]) == line.value
        assert float(row["official"]) == line.official
        assert float(row["low"]) == line.interval.low
        assert int(row["num_missing"]) == line.num_missing
    found = {(row["level"], row["name"]): row for row in rows if row["level"] != "task"}
    for each in summary.means:
        row = found[each.level, each.name]
        assert row["value"] == ("" if each.value is None else repr(each.value))
        assert (row["num_found"], row["num_expected"]) == tuple(each.coverage.split("/"))


def test_json_holds_everything_as_plain_data():
    content = tables.as_json(summarise(some_run(model="m"), CARDS, partial=True))
    again = json.loads(json.dumps(content, allow_nan=False))
    assert again["model"] == "m" and again["partial"]
    assert [task["card"]["name"] for task in again["tasks"]] == ["cls", HOSTILE, "pages"]
    assert again["means"][-1]["coverage"] == "2/4"
    assert again["absent"] == ["absent"]


def test_flags_say_what_a_reader_must_know():
    record = {"subset": {"queries": 10}, "calibration": "uncalibrated"}
    stranger = result("stranger", [1.0])
    done = some_run(**record)
    done = RunResults(done.folder, {**done.tasks, "stranger": stranger}, record)
    flags = "\n".join(summarise(done, CARDS, partial=True).flags)
    assert "uncalibrated subset" in flags
    assert "pages is partial: 2 media are missing" in flags
    assert "ties decide 10.00 points (4 queries): 60.00 official, 50.00 pessimistic" in flags
    assert "No result for 1 data sets: absent" in flags
    assert "Not of the suite, in no mean: stranger" in flags
    assert "complete data sets only" in flags


def test_a_whole_run_without_ties_has_no_flags():
    record = {"model": "m"}
    done = RunResults(Path("out"), {"cls": result(CARDS[0], hits(1000, 0.5))}, record)
    assert summarise(done, CARDS[:1]).flags == ()
    nearly = result(CARDS[0], hits(1000, 0.5), official=hits(1000, 0.501))
    assert summarise(RunResults(Path("out"), {"cls": nearly}, record), CARDS[:1]).flags == ()
    more = result(CARDS[0], hits(1000, 0.5), official=hits(1000, 0.502))
    assert len(summarise(RunResults(Path("out"), {"cls": more}, record), CARDS[:1]).flags) == 1


def test_a_calibrated_subset_is_said_to_be_one():
    done = some_run(subset={"queries": 5}, calibration={"models": []})
    assert summarise(done, CARDS).flags[0].startswith("A calibrated subset")


def test_markdown_tables_have_their_columns_whatever_names_there_are():
    text = tables.as_markdown(summarise(some_run(model=HOSTILE), CARDS))
    assert "<script" not in text.replace("\\<script", "")
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 2
    for block in blocks:
        widths = {line.replace("\\|", "").count("|") for line in block.splitlines()}
        assert len(widths) == 1, block
    assert [line for line in text.splitlines() if line.startswith(("# ", "## "))][1:] == [
        "## Means", "## Data sets", "## Provenance"
    ]  # fmt: skip


def test_strict_means_stay_empty_and_partial_ones_are_covered():
    strict = {row[0]: row[1:] for row in tables.mean_rows(summarise(some_run(), CARDS))}
    assert strict["modality image"] == (tables.percent((11 / 37 + 0.5) / 2), "2/2")
    assert strict["modality visdoc"] == ("-", "0/2")
    assert strict["all"] == ("-", "2/4")
    partial = summarise(some_run(), CARDS, partial=True)
    rows = {row[0]: row[1:] for row in tables.mean_rows(partial)}
    assert rows["all"] == (tables.percent((11 / 37 + 0.5) / 2), "2/4")


def test_published_numbers_stand_beside_with_prompts_and_page_sets():
    cards = [
        card("a", "image", "I-CLS"),
        card("p", "visdoc", "VDRv1", source="VLM2Vec/ViDoSeek-page-fixed / test"),
    ]
    values = {"a": 0.7, "p": 0.5}
    references, rows = load_references("mmeb-v2:RzenEmbed-2B")
    references = references.model_copy(update={"sizes": {}})
    deltas = compare_with(references, rows, means(values, cards), values, cards)
    done = RunResults(
        Path("out"),
        {name: result(of, hits(10, values[name])) for name, of in zip("ap", cards, strict=True)},
        {"profile": {"name": "plain"}, "suite": "mine"},
    )
    text = tables.as_markdown(summarise(done, cards, deltas=deltas))
    assert "repaired page sets" in text
    assert "prompts of profile plain" in text
    assert "RzenEmbed paper" in text
    assert "Not every modality mean can be set against" in text
    assert "+1.50 | above" in text  # I-CLS: 70.0 beside 68.5


def test_many_published_rows_are_a_line_each():
    cards = [card("a", "image", "I-CLS"), card("p", "visdoc", "VDRv1")]
    values = {"a": 0.7, "p": 0.5}
    references, rows = load_references("mmeb-v2")
    references = references.model_copy(update={"sizes": {"all": 78}})
    deltas = compare_with(references, rows, means(values, cards), values, cards)
    columns, lines = tables.delta_table(deltas)
    assert columns == ("reference", "image", "visdoc", "all")
    titles = [line[0] for line in lines]
    assert titles == list(dict.fromkeys(row.title for row in rows))
    by_title = {line[0]: line[1:] for line in lines}
    found = by_title["RzenEmbed-2B (original page sets)"]
    assert found == ("72.3 (-2.30)", "74.5 (-24.50)", "67.2 (not compared)")
    assert by_title["IFM-TTE (repaired page sets)"] == ("-", "-", "74.1 (not compared)")


def test_comparisons_come_back_from_csv_and_json(tmp_path: Path):
    one = run(tmp_path / "a", result(CARDS[0], hits(100, 0.5)))
    two = run(tmp_path / "b", result(CARDS[0], hits(100, 0.3)))
    found = compare_runs(one, two)
    rows = list(csv.DictReader(io.StringIO(tables.comparison_csv(found))))
    assert float(rows[0]["difference"]) == found.rows[0].difference
    assert float(rows[0]["low"]) == found.rows[0].interval.low
    assert json.loads(json.dumps(tables.comparison_json(found)))["rows"][0]["verdict"] == "worse"
    text = tables.comparison_markdown(found)
    assert "-20.00" in text and "Holm" in text
    assert "First: " in text and "Second: " in text


def test_spreadsheets_take_no_name_for_a_formula():
    names = ["=1+1", "+a", "-a", "@a", "\ta", "a=b", "\ud800"]
    results = {name: result(card(name), [1.0]) for name in names}
    summary = summarise(RunResults(Path("out"), results), [card(name) for name in names])
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(summary))))
    found = [row["name"] for row in rows if row["level"] == "task"]
    assert found == ["'=1+1", "'+a", "'-a", "'@a", "'\ta", "a=b", "?"]


def test_negative_numbers_stay_numbers_in_csv():
    of = card("pairs", "text", "STS", main_metric="hit@1")
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(summarise(
        RunResults(Path("out"), {"pairs": result(of, [-0.5])}), [of]
    )))))  # fmt: skip
    assert rows[0]["value"] == "-0.5"


def test_markdown_columns_are_aligned_and_inner_underscores_stay():
    of = [card("a_b"), card("_a_ much longer")]
    done = RunResults(Path("out"), {each.name: result(each, [1.0]) for each in of})
    text = tables.as_markdown(summarise(done, of))
    block = next(part for part in text.split("\n\n") if part.startswith("| data set"))
    assert len({len(line) for line in block.splitlines()}) == 1
    assert "| a_b " in block and "| \\_a\\_ much" in block


def test_a_run_that_has_not_ended_is_said_to_be_one():
    done = some_run()
    assert any("No run.json" in flag for flag in summarise(done, CARDS).flags)
    later = RunResults(done.folder, done.tasks, {"model": "m"}, ("absent",))
    flags = summarise(later, CARDS).flags
    assert any("Not yet in run.json, left out: absent" in flag for flag in flags)
    assert not any("No run.json" in flag for flag in flags)


@pytest.mark.parametrize("ties", ["official", "pessimistic"])
def test_the_tie_policy_decides_the_values_shown(ties: str):
    summary = summarise(some_run(), CARDS, ties=ties)
    assert summary.lines[1].value == {"official": 0.6, "pessimistic": 0.5}[ties]
    assert f"ties {ties}" in summary.heading
