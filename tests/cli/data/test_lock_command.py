"""`mmembed data lock`, and `mmembed train --data-lock` that reads what it wrote."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from mmembed.cli.application import app
from mmembed.cli.data.application import data
from mmembed.config.files import load_recipe
from mmembed.data.lock import read_lock, require_lock
from mmembed.data.opening import open_entries, recipe_entries
from mmembed.errors import ConfigError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMEMBED_CACHE", str(tmp_path / "cache"))


def run(*arguments):
    return CliRunner().invoke(data, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"query": q, "pos": [q + "!"]}) + "\n" for q in "abc"))
    return file


def test_a_lock_is_written_and_checked_without_the_target(rows, tmp_path):
    lock = tmp_path / "data.lock"
    result = run("lock", rows, "--format", "flagembedding", "--out", lock)
    assert result.stdout.strip() == str(lock)
    assert "1 data set, 3 rows" in result.stderr
    (entry,) = read_lock(lock).datasets
    assert (entry.rows, entry.reference.rpartition(":")[2]) == (3, "FlagEmbedding")
    checked = run("lock", "--check", lock)
    assert (checked.exit_code, checked.stdout) == (0, "")
    rows.write_text(rows.read_text().replace("b!", "B!"))
    changed = run("lock", "--check", lock)
    assert changed.exit_code == 2
    assert changed.stdout.splitlines() == [
        f"{entry.name}: rows.jsonl has changed ({rows.stat().st_size} bytes, now "
        f"{rows.stat().st_size})",
        f"{entry.name}: the content of its rows has changed",
    ]


def test_a_target_is_compared_with_the_lock_of_another(rows, tmp_path):
    lock = tmp_path / "data.lock"
    run("lock", rows, "-f", "flagembedding", "-o", lock)
    other = rows.rename(rows.with_name("others.jsonl"))
    lines = run("lock", other, "-f", "flagembedding", "--check", lock).stdout
    assert "is not in the lock" in lines
    assert "is in the lock and not used" in lines


def test_nothing_to_do_is_refused():
    with pytest.raises(ConfigError, match="give what to lock"):
        run("lock")


def test_training_refuses_data_that_are_not_as_in_the_lock(rows, tmp_path):
    recipe, lock = tmp_path / "recipe.yaml", tmp_path / "data.lock"
    text = "base: tiny_base\nname: mine\nstages:\n  - steps: 1\n    data:\n"
    entry = {
        "adapter": "data_adapters.formats.flag_embedding:FlagEmbedding",
        "arguments": {"path": str(rows)},
    }
    recipe.write_text(f"{text}      - {json.dumps(entry)}\n")
    run("lock", recipe, "--out", lock)
    require_lock(lock, open_entries(recipe_entries(load_recipe(recipe))))
    rows.write_text(rows.read_text() + json.dumps({"query": "d", "pos": ["d!"]}) + "\n")
    options = ["--output", str(tmp_path / "run"), "--data-lock", str(lock)]
    result = CliRunner().invoke(app, ["train", str(recipe), *options])
    assert result.exit_code == 2
    assert "rows is 4, was 3" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_lock_replaces_a_lock_only(rows):
    before = rows.read_bytes()
    result = CliRunner().invoke(data, ["lock", str(rows), "--out", str(rows)])
    assert isinstance(result.exception, ConfigError) and "no lock" in str(result.exception)
    assert rows.read_bytes() == before
