"""`mmembed eval`: what it prints, what it leaves behind, how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmembed.cli import app
from mmembed.errors import DataError
from mmembed.evaluation import selfcheck
from tests.evaluation.fixture_suite import LOADER, write_data, write_suite


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["eval", *(str(argument) for argument in arguments)])


@pytest.fixture
def given(tmp_path: Path) -> list[Any]:
    """Suite and data root."""
    suite = write_suite(tmp_path / "suite.yaml")
    return ["--suite", suite, "--data-root", write_data(tmp_path / "data")]


def test_prepare_writes_files_and_counts(tmp_path: Path, given: list[Any]) -> None:
    done = call("prepare", *given, "--out", tmp_path / "plan")
    assert done.exit_code == 0, done.stderr
    assert "clips     2 queries, 2 candidates, 8 frames\n" in done.stdout
    manifest = json.loads((tmp_path / "plan" / "manifest.json").read_text())
    assert manifest["plan"]["asked"] == 94
    assert not (tmp_path / "plan" / "missing.txt").exists()


def test_prepare_lists_what_is_missing_and_ends_with_2(tmp_path: Path, given: list[Any]) -> None:
    (tmp_path / "data" / "expected.txt").write_text(" ".join(f"x{n}.png" for n in range(30)))
    done = call("prepare", *given, "--out", tmp_path / "plan")
    assert done.exit_code == 2
    assert "30 files are missing" in done.stderr and "pictures/x0.png" in done.stderr
    listed = (tmp_path / "plan" / "missing.txt").read_text().splitlines()
    assert listed == [f"pictures/x{n}.png" for n in range(30)]
    assert not (tmp_path / "plan" / "manifest.json").exists()
    done = call("prepare", *given, "--out", tmp_path / "plan", "--allow-missing")
    assert done.exit_code == 0 and "30 MISSING" in done.stdout
    assert not (tmp_path / "plan" / "missing.txt").exists()


def test_run_prints_a_line_for_each_task_and_keeps_results(
    tmp_path: Path, given: list[Any]
) -> None:
    model = ["--model", "hashing", "--loader", LOADER, "--device", "cpu"]
    call("prepare", *given, "--out", tmp_path / "plan")
    out = ["--plan", tmp_path / "plan", "--out", tmp_path / "out"]
    done = call("run", *given, *model, *out, "--only", "pictures", "--only", "words")
    assert done.exit_code == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["pictures", "words"]
    assert done.stdout.startswith("pictures    1.0000") and "  hit@1\n" in done.stdout
    assert "66 items asked, 66 distinct, 0 had vectors, 66 encoded" in done.stderr
    done = call("verify", tmp_path / "out" / "vectors")
    assert (done.exit_code, done.stdout) == (0, "66 vectors, 0 problems\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nan"], "no unit vectors"),
        (["--model", "picky"], "(p3.png): corrupt: it is torn"),
        (["--model", "hashing", "--only", "picture"], "did you mean 'pictures'"),
        (["--model", "hashing", "--profile", "rzem"], "did you mean 'rzen'"),
        (["--model", "hashing", "--plan", "nowhere"], "mmembed eval prepare"),
        (["--model", "hashing", "--part", "0/2"], "--part needs --store"),
        (["--model", "hashing", "--part", "2"], "give I/N, e.g. 0/8"),
    ],
)
def test_what_cannot_be_judged_ends_with_2_and_no_scores(
    tmp_path: Path, given: list[Any], arguments: list[str], message: str
) -> None:
    options = ["--loader", LOADER, "--device", "cpu", "--out", tmp_path / "out"]
    done = call("run", *given, *options, *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert not (tmp_path / "out" / "scores").exists()


def test_suites_are_listed_with_their_tasks() -> None:
    done = call("suites")
    assert done.exit_code == 0
    summaries = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert summaries["mmeb-v2"].startswith("MMEB-V2, 78 tasks") and "example" in summaries
    done = call("suites", "mmeb-v2")
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 78
    assert call("suites", "mmeb").exit_code == 2


def test_verify_ends_with_2_when_a_byte_differs(tmp_path: Path, given: list[Any]) -> None:
    options = ["--model", "hashing", "--loader", LOADER, "--device", "cpu"]
    assert call("run", *given, *options, "--out", tmp_path / "out").exit_code == 0
    shard = next((tmp_path / "out" / "vectors").glob("*/shards/*.npy"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    done = call("verify", tmp_path / "out" / "vectors")
    assert done.exit_code == 2 and "sha256 differs" in done.stderr


def test_calibrate_writes_what_the_suite_then_names(tmp_path: Path, given: list[Any]) -> None:
    loader = ["--loader", "mmembed.evaluation.example_tasks:load_hashing_encoder"]
    nano = write_suite(tmp_path / "nano.yaml", subset={"queries": 3, "documents": 5})
    arguments: list[Any] = []
    for model in ("a", "b", "c"):
        for kind, suite in (("nano", nano), ("full", given[1])):
            out = tmp_path / kind / model
            options = ["--model", model, *loader, "--device", "cpu", "--out", out]
            done = call("run", "--suite", suite, *given[2:], *options)
            assert done.exit_code == 0, done.stderr
            assert ("uncalibrated" in done.stderr) == (kind == "nano")
            arguments += [f"--{kind}", out]
    assert call("calibrate", *arguments[:4], "--out", tmp_path / "c.json").exit_code == 2
    done = call("calibrate", *arguments, "--out", tmp_path / "c.json")
    assert done.exit_code == 0, done.stderr
    assert "overall /all" in done.stdout and "rank_agreement" in done.stdout
    write_suite(nano, subset={"queries": 3, "documents": 5}, calibration="c.json")
    options = ["--model", "a", *loader, "--device", "cpu", "--out", tmp_path / "nano" / "a"]
    done = call("run", "--suite", nano, *given[2:], *options)
    assert done.exit_code == 0 and "uncalibrated" not in done.stderr


def test_the_help_of_every_command_teaches_and_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "numpy", "PIL", "mteb", "rich.console")
    script = (
        "import contextlib, io, sys\n"
        "from mmembed.cli import app\n"
        "from mmembed.cli.evaluation.application import evaluation\n"
        "for command in evaluation.registered_commands:\n"
        "    name = command.name or command.callback.__name__.replace('_', '-')\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as said:\n"
        "        app(['eval', name, '--help'], standalone_mode=False)\n"
        "    assert f'mmembed eval {name}' in said.getvalue().partition('xample')[2], name\n"
        f"found = [name for name in {heavy!r} if name in sys.modules]\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def test_selfcheck_passes_and_ends_with_1_when_a_promise_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = call("selfcheck")
    assert done.exit_code == 0, done.stdout
    assert done.stdout.count("ok   ") == len(selfcheck.CHECKS)

    def broken() -> str:
        raise DataError("hit@1 is 1, not 0")

    monkeypatch.setattr(selfcheck, "CHECKS", {"first": lambda: "fine", "second": broken})
    done = call("selfcheck")
    assert done.exit_code == 1
    assert "ok      first: fine\nFAILED  second: hit@1 is 1, not 0\n" in done.stdout
