"""`mmembed demo` from the shell: what it refuses, and that it serves and stops."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmembed.cli.application import app
from tests import media_files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of"),
        (["x.index", "--quickstart"], "give one of"),
        (["--folder", "."], "--model"),
        (["--folder", "nowhere", "--model", "m"], "not a folder"),
        (["--quickstart", "--model", "m"], "its own model"),
        (["x.index", "--compare-model", "m"], "--compare INDEX"),
        (["x.index", "--host", "0.0.0.0"], "reachable from other machines"),
        (["nowhere.index"], "nowhere.index"),
    ],
)
def test_contradictory_options_are_told(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMEMBED_API_KEY", raising=False)
    result = CliRunner().invoke(app, ["demo", "--no-open", "--port", "0", *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_a_folder_is_indexed_and_shown_until_ctrl_c(tiny_checkpoint: Path, tmp_path: Path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        picture = media_files.encode_image(media_files.photo(seed=seed))
        (folder / f"photo{seed}.png").write_bytes(picture)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    command = [sys.executable, "-m", "mmembed", "demo", "--folder", str(folder), "--no-open",
               "--model", str(tiny_checkpoint), "--port", "0", "--dimension", "32"]  # fmt: skip
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    ) as process:
        try:
            said = ""
            assert process.stderr is not None
            for line in process.stderr:
                said += line
                if found := re.search(r"the demo is at (http://127\.0\.0\.1:\d+)", line):
                    break
            else:
                pytest.fail(said)
            assert "broken.png" in said
            with urllib.request.urlopen(f"{found[1]}/api/info") as answer:
                info = json.load(answer)
            assert info["rows"] == 3 and info["title"] == "photos"
            assert [space["dimension"] for space in info["spaces"]] == [64, 32]
            with urllib.request.urlopen(found[1]) as answer:
                assert "<html" in answer.read().decode()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    assert (tmp_path / "photos.index").is_dir()
