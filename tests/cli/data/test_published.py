"""`mmembed data list`, `show` and `fetch`: what there is, what is here, how it comes here."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from data_adapters.catalog import find_entry
from mmembed.cli.data.application import data
from mmembed.config.stage import DataConfig
from mmembed.data.opening import list_cards, open_entry
from mmembed.errors import ConfigError
from tests.data.hub_server import COMMIT, HubServer
from tests.data_adapters.documents.layouts import LAYOUTS

NAME = "colpali-train"
REPO = find_entry(NAME).card.repo


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMEMBED_CACHE", str(tmp_path / "cache"))


def run(*arguments):
    return CliRunner().invoke(data, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture
def copies(tmp_path):
    """A folder in the hub's layout that has one data set."""
    LAYOUTS["documents.pages"](find_entry(NAME).card, tmp_path / "copies" / REPO)
    return tmp_path / "copies"


def lines_of(result):
    head, *rows = result.stdout.splitlines()
    begins = [head.index(word) for word in head.split()]
    cells = [
        [row[a:b].strip() for a, b in zip(begins, [*begins[1:], None], strict=True)] for row in rows
    ]
    return [dict(zip(head.split(), row, strict=True)) for row in cells]


def test_one_command_lists_all_with_their_status(copies):
    rows = {row["name"]: row for row in lines_of(run("list", "--root", copies))}
    assert list(rows) == list(list_cards())
    assert rows[NAME]["here"] == rows["colpali-train-qa"]["here"] == "present"
    assert rows["llavahound-qa"] == {
        "name": "llavahound-qa",
        "task": "qa",
        "modality": "text+video -> text",
        "license": "apache-2.0",
        "revision": "7ed0b5422b",
        "rows": "?",
        "size": "?",
        "here": "absent",
    }
    assert rows["didemo-moments"]["revision"] == "floating"
    (copies / REPO / "data/train-00001-of-00002.parquet").unlink()
    found = lines_of(run("list", "--root", copies, "--present"))
    assert {row["here"] for row in found} == {"partial"}


def test_filters_leave_what_they_name(tmp_path):
    cards = {name: card for name, (card, _) in list_cards().items()}
    for option, value, keeps in (
        ("--task", "qa", lambda card: card.task == "qa"),
        ("--modality", "video", lambda card: "video" in card.query + card.document),
        ("--license", "Apache", lambda card: "apache" in card.license),
        ("--present", None, lambda card: False),
    ):
        given = [option] if value is None else [option, value]
        result = run("list", "--root", tmp_path, *given)
        expected = [name for name, card in cards.items() if keeps(card)]
        assert [row["name"] for row in lines_of(result)] == expected
        assert f"{len(expected)} data sets" in result.stderr


def test_json_has_every_field_of_the_cards(copies):
    rows = json.loads(run("list", "--root", copies, "--json").stdout)
    (mine,) = [row for row in rows if row["name"] == NAME]
    assert mine["here"] == "present"
    assert mine["citation"] == find_entry(NAME).card.citation
    assert mine["files"] == ["data/train-*.parquet"]


def test_show_says_all_and_its_lines_are_an_entry_of_a_recipe(copies):
    shown = run("show", NAME, "--root", copies).stdout
    card = find_entry(NAME).card
    for fact in (card.revision, card.citation, card.license, card.note, "present"):
        assert fact in shown
    assert "  direction: 't2i'" in shown
    assert "  image: 'image'" in shown
    assert f"mmembed data fetch {NAME} --root {copies} --rows 100" in shown
    assert "query     query 0" in shown
    assert "positive  <image" in shown
    pasted = shown.split("under `data`:\n")[1].split("\n\n")[0]
    (entry,) = yaml.safe_load(pasted)
    config = DataConfig.model_validate(entry)
    assert len(open_entry(config.adapter, config.arguments).adapter) == 5
    assert config.query_instruction == card.query_instructions[0]


def test_show_of_what_is_not_here_and_of_no_such_name(tmp_path):
    shown = run("show", "didemo-moments", "--root", tmp_path).stdout
    assert "absent" in shown
    assert f"see https://github.com/LisaAnne/LocalizingMoments; put it in {tmp_path}" in shown
    assert "first of" not in shown
    with pytest.raises(ConfigError, match="did you mean 'colpali-train'"):
        run("show", "colpali-trainn")


def test_a_dry_run_prints_what_would_come_and_fetches_nothing(copies, tmp_path):
    root = tmp_path / "data"
    result = run("fetch", NAME, "--root", root, "--source", copies, "--dry-run", "--rows", 3)
    assert f"{NAME}: {REPO}@{find_entry(NAME).card.revision}" in result.stdout
    assert "license unknown; the first 3 rows" in result.stdout
    assert not root.exists()


def test_fetch_copies_from_a_folder_and_says_the_licence_first(copies, tmp_path):
    root = tmp_path / "data"
    result = run("fetch", NAME, "colpali-train-qa", "--root", root, "--source", copies)
    assert result.stdout.splitlines() == [str(root / REPO)] * 2
    assert result.stderr.index("license unknown") < result.stderr.index("2 files")
    assert lines_of(run("list", "--root", root, "--present"))[0]["here"] == "present"
    with pytest.raises(ConfigError, match="no data set 'nothing'"):
        run("fetch", "nothing", "--root", root)


def test_the_command_downloads_from_the_hub_that_the_environment_names(copies, tmp_path):
    root = tmp_path / "data"
    code = "from mmembed.cli.data.application import data; data()"
    with HubServer(copies).running() as server:
        environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
        options = ("fetch", NAME, "--root", str(root), "--rows", "2", "--revision", "main")
        ran = subprocess.run(
            [sys.executable, "-c", code, *options],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    assert f"commit {COMMIT}" in ran.stderr
    shown = run("show", NAME, "--root", root).stdout
    assert "first of 2 rows" in shown
