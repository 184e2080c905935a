"""`mmembed eval compare`: exit code 1 for a loss, 0 for none, 2 for runs that do not fit."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mmembed.cli.application import app
from tests.evaluation.made_up_runs import hits, result, run


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["eval", "compare", *map(str, arguments)])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The second loses 5 points on `a` and nothing on `b`."""
    before = run(tmp_path / "before", result("a", hits(400, 0.5)), result("b", hits(400, 0.5)))
    after = run(tmp_path / "after", result("a", hits(400, 0.45)), result("b", hits(400, 0.5)))
    return before.folder, after.folder


def test_a_loss_ends_with_code_1_and_is_named(folders: tuple[Path, Path]):
    done = call(*folders)
    assert done.exit_code == 1, done.output
    assert "-5.00" in done.stdout and "worse" in done.stdout
    assert "significantly worse: a" in done.stderr


def test_a_gain_and_equality_end_with_code_0(folders: tuple[Path, Path], tmp_path: Path):
    assert call(*reversed(folders)).exit_code == 0
    same = run(tmp_path / "same", result("a", hits(400, 0.5)), result("b", hits(400, 0.5)))
    assert call(folders[0], same.folder).exit_code == 0


@pytest.mark.parametrize(
    ("option", "code"),
    [
        (("--tolerance", "5"), 0),
        (("--tolerance", "4.9"), 1),
        (("--no-fail-on-regression",), 0),
        (("--fail-on-regression",), 1),
    ],
)
def test_options_decide_what_counts_as_a_loss(
    folders: tuple[Path, Path], option: tuple[str, ...], code: int
):
    assert call(*folders, *option).exit_code == code


def test_runs_over_other_queries_end_with_code_2(folders: tuple[Path, Path], tmp_path: Path):
    other = run(tmp_path / "o", result("a", hits(401, 0.5)), result("b", hits(400, 0.5)))
    done = call(folders[0], other.folder)
    assert done.exit_code == 2
    assert "a: queries only in the second: q400" in done.output
    assert call(folders[0], folders[0]).exit_code == 2
    assert call(folders[0], tmp_path / "nothing").exit_code == 2


def test_formats_hold_the_same_numbers(folders: tuple[Path, Path]):
    rows = json.loads(call(*folders, "--format", "json").stdout)["rows"]
    table = list(csv.DictReader(io.StringIO(call(*folders, "--format", "csv").stdout)))
    assert [float(row["adjusted_p"]) for row in table] == [row["adjusted_p"] for row in rows]
    text = call(*folders, "--format", "md").stdout
    assert text.startswith("|") and "Holm" in text
    assert call(*folders, "--format", "json").stdout == call(*folders, "--format", "json").stdout


def test_help_says_the_codes():
    assert "0 no significant loss" in " ".join(call("--help").stdout.split())
