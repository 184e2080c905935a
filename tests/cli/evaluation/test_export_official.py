"""`mmembed eval export-official`: a run leaves as files and comes back as the same scores."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from mmembed.cli.evaluation.export_official import export_official
from mmembed.cli.evaluation.score import score
from mmembed.errors import ConfigError, DataError
from mmembed.evaluation import runs
from tests.evaluation.fixture_suite import LOADER, write_data, write_suite

COMMANDS = typer.Typer()
COMMANDS.command()(export_official)
COMMANDS.command()(score)


def command(*arguments):
    return CliRunner().invoke(COMMANDS, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture
def suite(tmp_path):
    data, suite = write_data(tmp_path / "data"), write_suite(tmp_path / "suite.yaml")
    options = {"loader": LOADER, "data_root": data, "device": "cpu", "show_progress_bar": False}
    runs.run(suite, "hashing", tmp_path / "run", **options)
    return suite


def export(suite, folder, *options):
    where = ("--out", folder / "run", "--to", folder / "files")
    return command("export-official", *where, "--suite", suite, *options)


def test_exported_vectors_score_as_in_the_run_to_the_byte(suite, tmp_path):
    exported = command(
        "export-official", "--out", tmp_path / "run", "--to", tmp_path / "files", "--suite", suite
    )
    names = exported.stdout.split()
    assert sorted(names) == ["clips", "labels", "pictures", "words"]
    assert "pairs has pairs" in exported.stderr
    command("score", "--dir", tmp_path / "files", "--suite", suite, "--out", tmp_path / "again")
    for name in names:
        for file in (f"scores/{name}.json", f"queries/{name}.jsonl"):
            assert (tmp_path / "again" / file).read_bytes() == (
                tmp_path / "run" / file
            ).read_bytes()


def test_one_task_is_exported_by_name(suite, tmp_path):
    chosen = ("--out", tmp_path / "run", "--to", tmp_path / "files", "--suite", suite)
    command("export-official", *chosen, "--only", "words")
    assert len(list((tmp_path / "files").iterdir())) == 3
    with pytest.raises(ConfigError, match="no task 'word'"):
        command("export-official", *chosen, "--only", "word")


def test_data_sets_that_a_suite_does_not_have_are_refused(suite, tmp_path):
    command(
        "export-official", "--out", tmp_path / "run", "--to", tmp_path / "files", "--suite", suite
    )
    for path in (tmp_path / "files").glob("words_*"):
        path.rename(path.with_name(path.name.replace("words", "others")))
    with pytest.raises(DataError, match="does not have: others; move their files away"):
        command("score", "--dir", tmp_path / "files", "--suite", suite)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no run\.json"):
        command("export-official", "--out", tmp_path, "--to", tmp_path / "files")


def test_a_suite_file_that_only_the_results_name_is_not_run(suite, tmp_path):
    with pytest.raises(ConfigError, match=r"runs code of its own; .* add --suite .*suite.yaml"):
        command("export-official", "--out", tmp_path / "run", "--to", tmp_path / "files")
    assert not (tmp_path / "files").exists()
