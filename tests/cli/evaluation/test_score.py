"""`mmembed eval score`: the table, the files, the refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from mmembed.cli.evaluation.score import score
from mmembed.errors import ConfigError, DataError
from mmembed.evaluation.official_files import write_official
from mmembed.evaluation.results import read_results
from mmembed.tasks import RetrievalTask
from mmembed.types import MultimodalInput

ITEM = MultimodalInput.of("anything")
COMMAND = typer.Typer()
COMMAND.command()(score)


def run(*arguments):
    return CliRunner().invoke(COMMAND, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture
def folder(tmp_path):
    """`tied`: equal vectors; `clear`: each query is its document."""
    rows = np.eye(4, dtype=np.float32)
    names = dict.fromkeys("abcd", ITEM)
    relevant = {name: {name: 1.0} for name in "abcd"}
    task = RetrievalTask("", names, names, relevant, pools=dict.fromkeys("abcd", "abcd"))
    write_official(tmp_path / "in", "clear", task, rows, rows)
    write_official(tmp_path / "in", "tied", task, rows[[0] * 4], rows[[0] * 4])
    return tmp_path / "in"


def test_the_table_has_a_row_for_each_data_set_and_ties_are_flagged(folder):
    result = run("--dir", folder)
    head, clear, tied = result.stdout.splitlines()
    assert head.split()[:5] == ["data", "set", "queries", "documents", "hit@1"]
    assert clear.split()[:4] == ["clear", "4", "4", "100.00"]
    assert tied.split()[:4] == ["tied", "4", "4", "0.00"]
    assert tied.split()[-1] == "2"  # the first under official, the last under docid
    assert "warning: tied: hit@1 is +25.00 points under official ties" in result.stderr
    assert "clear:" not in result.stderr
    official = run("--dir", folder, "--ties", "official").stdout.splitlines()
    assert official[2].split()[3] == "25.00"


def test_files_hold_the_chosen_policy_and_what_a_report_reads(folder, tmp_path):
    run(
        *("--dir", folder, "--ties", "official", "--out", tmp_path / "out"),
        *("--main-metric", "ndcg_linear@5", "--modality", "visdoc"),
    )
    written = json.loads((tmp_path / "out" / "tied_score.json").read_text())
    assert len(written) == 26
    assert written["hit@1"] == 0.25
    results = read_results(tmp_path / "out", with_queries=True)
    assert list(results.tasks) == ["clear", "tied"]
    assert results.tasks["tied"].metrics["official"] == written
    assert results.tasks["tied"].card.modality == "visdoc"
    assert results.tasks["clear"].value() == 1.0
    assert not [path for path in folder.iterdir() if "score" in path.name]


def test_wrong_options_and_folders_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="--ties is 'lucky'; one of pessimistic"):
        run("--dir", folder, "--ties", "lucky")
    with pytest.raises(DataError, match="main metric 'accuracy'"):
        run("--dir", folder, "--main-metric", "accuracy")
    with pytest.raises(DataError, match="has no NAME_qry"):
        run("--dir", tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="is the folder of a run"):
        run("--dir", folder, "--out", tmp_path)
