"""`mmembed data convert`: what is written, what is said, its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from mmembed.cli.data.application import data
from mmembed.errors import ConfigError


def run(*arguments: object) -> Any:
    return CliRunner().invoke(data, ["convert", *map(str, arguments)])


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def test_a_users_file_becomes_ours_by_its_columns_alone(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text('anchor,positive,negative\nq,"p, quoted",n\n')
    out = tmp_path / "rows.jsonl"
    done = run(tmp_path / "pairs.csv", "--to", "jsonl", "--out", out)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"1 rows read, 1 written to {out}\n"
    assert json.loads(out.read_text()) == {
        "query": "q",
        "positives": ["p, quoted"],
        "negatives": ["n"],
        "task": "retrieval",
    }


def test_bad_rows_are_named_with_file_and_line_and_what_is_left_out_is_counted(
    tmp_path: Path,
) -> None:
    rows = write(
        tmp_path / "rows.jsonl",
        b"{",
        {"id": "1", "query": "q", "positives": ["p"]},
        {"query": {"image": "a.png"}, "positives": ["p"]},
        b'{"query": "\xff"}',
    )
    out = tmp_path / "out.jsonl"
    command = (rows, "--to", "flagembedding", "--out", out)
    stopped = run(*command)
    assert (stopped.exit_code, stopped.stdout, out.exists()) == (2, "", False)
    for words in (
        "3 of 4 rows cannot be converted",
        "rows.jsonl, line 1: not JSON",
        "rows.jsonl, line 3: query is image",
        "rows.jsonl, line 4: not UTF-8",
        "flagembedding has no place for id: left out of 1 rows",
        "--skip-bad writes the other rows",
    ):
        assert words in stopped.stderr
    skipped = run(*command, "--skip-bad")
    assert skipped.exit_code == 2
    assert skipped.stdout == f"4 rows read, 1 written to {out}\n"
    assert json.loads(out.read_text()) == {"query": "q", "pos": ["p"], "neg": []}


def test_a_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", {"query": "q", "positives": ["p"]})
    out = write(tmp_path / "out.jsonl", {"mine": 1})
    refused = run(rows, "--to", "jsonl", "--out", out)
    assert isinstance(refused.exception, ConfigError) and "--force" in str(refused.exception)
    assert json.loads(out.read_text()) == {"mine": 1}
    assert run(rows, "--to", "jsonl", "--out", out, "--force").exit_code == 0
    assert "query" in json.loads(out.read_text())


def test_formats_and_their_options_may_be_said(tmp_path: Path) -> None:
    rows = write(tmp_path / "odd.jsonl", {"title": "t", "body": "b"})
    out = tmp_path / "out.jsonl"
    command = (rows, "--to", "jsonl", "--out", out)
    unknown = run(*command)
    assert isinstance(unknown.exception, ConfigError)
    assert "columns title, body" in str(unknown.exception)
    said = ("--format", "sentence-transformers", "--set", "columns=[body, title]")
    assert run(*command, *said).exit_code == 0
    assert json.loads(out.read_text())["query"] == "b"
