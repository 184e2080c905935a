"""`mmembed encode` to a folder: when it is a job, what it says, its exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mmembed.cli import app
from tests.search.jobs import all_rows, texts, write_lines


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["encode", *(str(argument) for argument in arguments)])


def test_a_job_goes_on_and_can_be_verified(tmp_path: Path, tiny_checkpoint: Path) -> None:
    rows: list[Any] = [*texts(4), {"id": "odd", "colour": "red"}]
    source, out = write_lines(tmp_path / "items.jsonl", rows), tmp_path / "vectors.v1"
    command = (source, "--model", tiny_checkpoint, "--out", f"{out}/", "--shard-rows", 2)

    stopped = run(*command)
    assert stopped.exit_code == 2
    assert stopped.stderr.startswith("error: item 4: invalid_type: ")
    assert "--on-error null" in stopped.stderr
    half = run("--verify", out)
    assert half.exit_code == 2
    assert "2 of 3 shards, 4 of 5 rows, 0 failed" in half.stdout
    assert "1 of 3 shards are not encoded yet" in half.stderr

    done = run(*command, "--on-error", "skip")
    assert done.exit_code == 2  # one item has failed
    assert "5 of 5 rows, 1 of them in this run" in done.stdout
    assert str(out / "errors.jsonl") in done.stderr
    whole = run("--verify", out)
    assert (whole.exit_code, whole.stderr) == (0, "")

    # the same rows to one file
    alone = tmp_path / "alone.npy"
    write_lines(source, rows[:4])
    assert run(source, "--model", tiny_checkpoint, "--out", alone).exit_code == 0
    np.testing.assert_allclose(all_rows(out)[1], np.load(alone), atol=1e-6)


def test_one_file_can_be_a_table_or_quantised(tmp_path: Path, tiny_checkpoint: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    source = write_lines(tmp_path / "items.jsonl", [*texts(2), {"id": "odd", "colour": "red"}])
    command = (source, "--model", tiny_checkpoint, "--out")
    assert run(*command, tmp_path / "a.parquet", "--on-error", "null").exit_code == 2
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table["id"].to_pylist() == ["row0", "row1", "odd"]
    assert [vector is None for vector in table["vector"].to_pylist()] == [False, False, True]
    arguments = ("--precision", "int8", "--on-error", "skip")
    assert run(*command, tmp_path / "a.npy", *arguments).exit_code == 2
    assert np.load(tmp_path / "a.npy").dtype == np.int8


def test_a_dry_run_writes_nothing(tmp_path: Path, tiny_checkpoint: Path) -> None:
    source = write_lines(tmp_path / "items.jsonl", texts(5))
    done = run(source, "--model", tiny_checkpoint, "--out", tmp_path / "out", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "5 rows in 1 shard\n" in done.stdout and "hours in one process" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "x", "--out", "o/"], "go with --out FILE.npy"),
        (["--out", "o/"], "nothing to encode: name a file of items or a folder"),
        (["nowhere.jsonl", "--out", "o/"], "nowhere.jsonl cannot be read"),
        (["a.jsonl", "b.jsonl", "--out", "o.npy"], "takes one file of items; give a folder"),
        (["a.jsonl", "--out", "o.npy", "--processes", "2"], "is written by one process"),
        (["a.jsonl", "--out", "o/", "--ray-address", "auto"], "give --runner ray"),
        (
            ["a.jsonl", "--out", "o/", "--precision", "int8", "--on-error", "null"],
            "cannot carry the NaN rows",
        ),
        (["--verify", "nowhere"], "nowhere is not the folder of an encode job"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_with_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments, "--model", "m")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr
