"""`mmembed data preview` writes a page of a file, a recipe or a mixture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from mmembed.cli.data.application import data
from mmembed.errors import ConfigError


def run(*arguments: object) -> Any:
    return CliRunner().invoke(data, ["preview", *map(str, arguments)])


def rows_in(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    row = {"id": "a", "query": {"text": "a cat", "instruction": "Find it."}, "positives": ["x"]}
    path.write_text(json.dumps(row) + "\n")
    return path


def test_a_file_is_previewed_with_its_prompts(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    result = run(rows_in(tmp_path), "--out", out, "--rows", 3, "--prompt", "plain")
    assert result.exit_code == 0, result.output
    page = out.read_text(encoding="utf-8")
    assert "rows.jsonl, line 1" in page and "query: " in page


def test_every_entry_of_a_recipe_is_previewed(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    result = run("tiny", "--out", out, "--rows", 4)
    assert result.exit_code == 0, result.output
    page = out.read_text(encoding="utf-8")
    assert "Composition" in page and "data_adapters.emoji:EmojiCaptions" in page


def test_an_unknown_template_is_refused_before_any_row_is_read(tmp_path: Path) -> None:
    result = run(rows_in(tmp_path), "--out", tmp_path / "x.html", "--prompt", "none")
    assert isinstance(result.exception, ConfigError) and not (tmp_path / "x.html").exists()


def test_a_page_does_not_take_the_place_of_data(tmp_path: Path) -> None:
    rows = rows_in(tmp_path)
    before = rows.read_bytes()
    result = run(rows, "--out", rows)
    assert isinstance(result.exception, ConfigError) and ".html" in str(result.exception)
    assert rows.read_bytes() == before


def test_values_that_are_all_equal_have_no_histogram(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert run(rows_in(tmp_path), "--out", out).exit_code == 0
    page = out.read_text(encoding="utf-8")
    assert "<svg" not in page and "query characters" in page
