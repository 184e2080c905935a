"""`mmembed index`: with and without the name of its default command, and what the others say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmembed.cli import app
from mmembed.search.opening import open_index
from tests.search.library import make_library

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    make_library(folder, texts=2, pictures=2, documents=1, clips=1)
    return folder


def test_a_folder_needs_no_name_of_a_command(
    library: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    pytest.importorskip("lancedb")
    out = tmp_path / "index"
    for words in (
        ["index", library],
        ["index", "add", library],
        ["index", "--check-content", library],
    ):
        done = run(*words, "--model", tiny_checkpoint, "--out", out)
        assert done.exit_code == 0, (done.stderr, done.exception)
        assert "6 files: " in done.stdout and "7 rows in all" in done.stdout
    assert "6 files unchanged" in done.stdout
    assert not (out / "index.json").exists(), "new indexes are those of LanceDB"


def test_help_is_that_of_the_group_and_of_each_command() -> None:
    for words in (["index"], ["index", "--help"], ["index", "-h"]):
        said = run(*words)
        assert "optimize" in said.output and "migrate" in said.output, words
    for name in ("add", "info", "optimize", "migrate"):
        said = run("index", name, "--help")
        assert said.exit_code == 0 and "mmembed index" in said.stdout
    nothing = run("index", "nowhere", "--model", "m", "--out", "o")
    assert (nothing.exit_code, nothing.stderr) == (2, "error: nowhere is not a folder\n")


def test_how_files_are_cut_is_kept_until_told_otherwise(
    library: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    def add(*words: Any) -> dict[str, Any]:
        out = f"numpy:{tmp_path / 'index'}"
        done = run("index", library, "--model", tiny_checkpoint, "--out", out, *words)
        assert done.exit_code == 0, done.stderr
        cut: dict[str, Any] = open_index(tmp_path / "index").settings["segmentation"]
        return cut

    first = add("--passage-chars", 10, "--scenes", "--max-pages", 1)
    assert (first["passage_chars"], first["windows"], first["max_pages_per_file"]) == (
        10,
        "scenes",
        1,
    )
    assert add() == first
    assert add("--no-scenes", "--instruction", "Find it.") == {
        **first,
        "windows": "fixed",
        "instruction": "Find it.",
    }


@pytest.mark.parametrize("engine", ["numpy", "lance"])
def test_info_and_optimize_say_what_the_index_is(
    library: Path, tmp_path: Path, tiny_checkpoint: Path, engine: str
) -> None:
    if engine == "lance":
        pytest.importorskip("lancedb")
    out = tmp_path / "index"
    (library / "broken.png").write_text("no picture")
    done = run("index", library, "--model", tiny_checkpoint, "--out", f"{engine}:{out}")
    assert done.exit_code == 2
    told = json.loads(run("index", "info", out, "--json").stdout)
    assert told["rows_by_kind"] == {"image": 2, "pdf": 2, "text": 2, "video": 1}
    assert (told["rows"], told["failures"], told["method"]) == (7, 1, "exact")
    assert told["folders"] == [str(library)] and told["model"] == str(tiny_checkpoint)
    assert told["dimension"] == 64 and told["bytes_on_disk"] > 7 * 64 * 4
    lines = run("index", "info", out).stdout
    assert "7 (2 image, 2 pdf, 2 text, 1 video)" in lines
    assert "1, listed in errors.jsonl" in lines
    better = run("index", "optimize", out)
    assert better.exit_code == 0 and better.stdout.startswith("exact"), better.stderr
    absent = run("index", "info", tmp_path / "nowhere")
    assert absent.exit_code == 2 and absent.stderr.startswith("error: ")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runner", "spark"], "--runner is 'spark'; it must be local or ray"),
        (["--processes", "2"], "--processes and --ray-address go with --runner ray"),
        (["--poll", "2"], "--poll goes with --watch"),
        (["--out", "ftp://x/y"], "is no address of an index"),
    ],
)
def test_words_that_do_not_fit_are_refused_in_one_line(
    library: Path, tmp_path: Path, tiny_checkpoint: Path, words: list[str], message: str
) -> None:
    out = [] if "--out" in words else ["--out", tmp_path / "index"]
    done = run("index", library, "--model", tiny_checkpoint, *out, *words)
    assert done.exit_code == 2, done.stdout
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "index").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_a_watch_takes_in_what_comes_and_ends_well_with_ctrl_c(
    library: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    pytest.importorskip("watchfiles")
    long_ago = time.time() - 1000
    for path in library.rglob("*.*"):
        os.utime(path, (long_ago, long_ago))
    command = [sys.executable, "-m", "mmembed", "index", library, "--model", tiny_checkpoint]
    errors = tmp_path / "errors.txt"
    with errors.open("w") as shown:
        process = subprocess.Popen(
            [*map(str, command), "--out", f"numpy:{tmp_path / 'index'}", "--watch"],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=shown,
            text=True,
            # background shells ignore it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    assert process.stdout is not None
    assert "7 rows in all" in process.stdout.readline(), errors.read_text()
    (tmp_path / "new.txt").write_text("a new note")
    os.utime(tmp_path / "new.txt", (long_ago, long_ago))
    (tmp_path / "new.txt").rename(library / "new.txt")
    assert "1 items encoded" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0, errors.read_text()
    assert errors.read_text().splitlines()[-1].startswith("stopped; ")
    assert len(open_index(tmp_path / "index")) == 8


def test_a_run_that_changed_something_optimizes_and_another_does_not(
    library: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    pytest.importorskip("lancedb")
    out = tmp_path / "index"

    def add() -> bool:
        done = run("index", library, "--model", tiny_checkpoint, "--out", out)
        assert done.exit_code == 0, done.stderr
        return "optimizing" in done.stderr

    assert add()
    before = sorted(out.rglob("*"))
    assert not add()
    assert sorted(out.rglob("*")) == before
    (library / "new.txt").write_text("a new note")
    assert add()
    (library / "new.txt").unlink()
    assert add()


@pytest.mark.parametrize("engine", ["numpy", "lance"])
def test_what_an_index_holds_is_told_without_torch(tmp_path: Path, engine: str) -> None:
    if engine == "lance":
        pytest.importorskip("lancedb")
    address = f"{engine}:{tmp_path / 'index'}"
    open_index(address, fingerprint="a" * 64, dimension=8).close()
    program = (
        "import sys\n"
        "from mmembed.cli import app\n"
        f"app(['index', 'info', {address!r}], standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0 and "8 dimensions" in done.stdout, done.stderr
