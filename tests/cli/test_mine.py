"""`mmembed mine` and `mmembed filter` with a real model folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from mmembed.cli.filter import filter_pairs
from mmembed.cli.mine import mine
from mmembed.errors import ConfigError

WORDS = "cat dog fish bird horse cow".split()


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [{"query": f"a {word}", "positives": [f"the {word}"]} for word in WORDS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def invoke(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(mine)
    app.command("filter")(filter_pairs)
    return CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)


def test_a_file_of_pairs_gets_negatives_and_a_sheet(
    pairs: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out, sheet = tmp_path / "mined", tmp_path / "sheet.html"
    command = ["mine", pairs, "-t", tiny_checkpoint, "-o", out, "-k", 2, "--ranks", "2-4"]
    found = invoke(*command, "--sheet", sheet, "--scores", "teacher")
    assert found.exit_code == 0
    assert found.stdout.split() == [str(out / "pairs.jsonl"), str(sheet)]
    assert "6 of 6 rows; 6 with all their negatives" in found.stderr
    rows = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    for word, row in zip(WORDS, rows, strict=True):
        assert len(row["negatives"]) == 2 and f"the {word}" not in row["negatives"]
        assert len(row["scores"]) == 3 and row["meta"]["negative_ranks"] == [2, 3]
    page = sheet.read_text()
    assert "the fish" in page and "rank 2" in page
    written = (out / "mining.json").read_bytes()
    assert invoke(*command, "--scores", "teacher").exit_code == 0
    assert (out / "mining.json").read_bytes() == written


def test_options_win_over_the_file_of_settings(
    pairs: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "mining.yaml"
    settings.write_text("ranks: [1, 3]\nnum_negatives: 1\nkeep_negatives: true\n")
    out = tmp_path / "mined"
    invoke("mine", pairs, "-t", tiny_checkpoint, "-o", out, "-c", settings, "-k", 3)
    record = json.loads((out / "mining.json").read_text())["config"]
    assert (record["ranks"], record["num_negatives"], record["keep_negatives"]) == ([1, 3], 3, True)
    settings.write_text("rank: [1, 3]\n")
    with pytest.raises(ConfigError, match="unknown key 'rank'; did you mean 'ranks'"):
        invoke("mine", pairs, "-t", tiny_checkpoint, "-o", out, "-c", settings)
    settings.write_text("- 1\n")
    with pytest.raises(ConfigError, match="lines of `name: value`; found a list"):
        invoke("mine", pairs, "-t", tiny_checkpoint, "-o", out, "-c", settings)


def test_parts_are_counted_from_one(pairs: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "mined"
    # all six rows are one chunk, the first part's
    second = invoke("mine", pairs, "-t", tiny_checkpoint, "-o", out, "--part", "2/2")
    assert "part 2/2 is done" in second.stderr and not second.stdout
    first = invoke("mine", pairs, "-t", tiny_checkpoint, "-o", out, "--part", "1/2")
    assert first.stdout.strip() == str(out / "pairs.jsonl")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--ranks", "50", "the first and the last rank"),
        ("--ranks", "9-3", "at most the last"),
        ("--part", "3/2", "such as 1/4"),
        ("--relative-margin", "95", "relative_margin"),
    ],
)
def test_values_that_make_no_sense_are_refused_before_the_model_is_loaded(
    pairs: Path, tmp_path: Path, option: str, value: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        invoke("mine", pairs, "-t", tmp_path / "none", "-o", tmp_path / "out", option, value)


def test_filter_sorts_rows_into_two_files(
    pairs: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "kept"
    found = invoke("filter", pairs, "-t", tiny_checkpoint, "-o", out, "--lowest", 50)
    assert found.stdout.strip() == str(out / "pairs.jsonl")
    assert "3 of 6 rows kept" in found.stderr and "lowest 3" in found.stderr
    kept = (out / "pairs.jsonl").read_text().splitlines()
    dropped = (out / "pairs.dropped.jsonl").read_text().splitlines()
    assert len(kept) == len(dropped) == 3
    assert {json.loads(line)["meta"]["reason"] for line in dropped} == {"lowest"}
