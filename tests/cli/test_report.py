"""`mmembed report`: one page that stands alone, of a run that may still be training."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from mmembed.cli.application import app


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def run_folder(folder: Path, *stages: str, steps: int = 5, **fields: Any) -> Path:
    for stage in stages:
        rows = [
            {
                "step": step,
                "loss": 2.0 / step,
                "temperature": {"all": 0.05},
                "tokens_per_second": 1234.0,
                "data_wait_share": 0.25,
                "peak_memory_bytes": 3 * 2**29,
                **fields,
            }
            for step in range(1, steps + 1)
        ]
        (folder / stage).mkdir(parents=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / stage / "metrics.jsonl").write_text(text + '{"step": 6, "lo')
    return folder


def page(path: Path) -> ElementTree.Element:
    return ElementTree.fromstring(path.read_text(encoding="utf-8").removeprefix("<!DOCTYPE html>"))


def text(element: ElementTree.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def test_an_unfinished_run_has_a_section_for_each_stage(tmp_path: Path):
    run = run_folder(tmp_path / "run", "stage1", "stage2-member1", "stage2-member2")
    done = call(run)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(run / "training.html")
    found = page(run / "training.html")
    assert [heading.text for heading in found.iter("h2")] == ["stage1", "stage2"]
    table = text(next(found.iter("table")))
    assert "run stage2 member2 5 0.4000 1,234 25.0% 1.50 GiB not finished" in table
    loss = next(figure for figure in found.iter("figure") if text(figure).startswith("Loss"))
    assert len(loss.findall(".//polyline")) == 2  # the values and their average
    assert "member1 0.4 member2 0.4" in text(found)


def test_runs_lie_over_each_other_and_collapse_is_said(tmp_path: Path):
    one = run_folder(tmp_path / "one", "stage1")
    two = run_folder(tmp_path / "two", "stage1", collapsed=True)
    done = call(one, two, "--output", tmp_path / "both.html")
    assert done.exit_code == 0, done.output
    found = page(tmp_path / "both.html")
    assert text(next(found.iter("h1"))) == "Training: one, two"
    assert [text(line) for line in next(found.iter("ul"))] == ["one 0.4", "two 0.4"]
    assert "COLLAPSED at step 1" in text(found)


def test_runs_of_one_name_are_told_apart(tmp_path: Path):
    paths = [run_folder(tmp_path / name / "run", "stage1") for name in ("a", "b")]
    assert call(*paths, "--output", tmp_path / "p.html").exit_code == 0
    assert text(next(page(tmp_path / "p.html").iter("h1"))) == "Training: a/run, b/run"


def test_the_page_stands_alone_in_both_colour_schemes(tmp_path: Path):
    run = run_folder(tmp_path / "run", "stage1")
    call(run)
    content = (run / "training.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script|<link|@import|url\(", content)
    assert "prefers-color-scheme: dark" in content


@pytest.mark.parametrize("twice", [False, True])
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, twice: bool):
    run = run_folder(tmp_path / "run", "stage1")
    done = call(run, run) if twice else call(tmp_path / "nothing")
    assert done.exit_code == 2
    assert ("given twice" if twice else "holds no metrics.jsonl") in done.output
    assert not (run / "training.html").exists()
