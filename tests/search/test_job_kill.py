"""Jobs that are killed, and jobs of several processes one of which is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmembed.errors import ConfigError
from mmembed.search import processes
from mmembed.search.job_folder import JobSettings
from mmembed.search.jobs import Workers, encode_dataset
from tests.search.jobs import contents, texts, write_lines

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def test_a_job_killed_at_any_flush_ends_where_none_was_killed(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    rows = [*texts(7), {"id": "odd", "colour": "red"}]
    source = write_lines(tmp_path / "items.jsonl", rows)
    done = subprocess.run(
        [sys.executable, "-m", "tests.search.killed_jobs", tiny_checkpoint, source, tmp_path],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) >= 15
    for kill in kills:
        assert kill["equal"] and not kill["damaged"], kill
        assert kill["encoded_again"] == 8 - kill["committed"], kill
    assert {kill["committed"] for kill in kills} == {0, 3, 6, 8}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Path]:
    """A folder with items.jsonl and what one process makes of it, in `one`."""
    folder = tmp_path_factory.mktemp("job")
    write_lines(folder / "items.jsonl", [*texts(20), {"id": "odd", "colour": "red"}])
    run(folder, tiny_checkpoint, "one", Workers(num_workers=1))
    yield folder


def run(folder: Path, model: Path, out: str, workers: Workers) -> str:
    settings = JobSettings(shard_rows=3, on_error="null")
    source = folder / "items.jsonl"
    return str(encode_dataset(source, model, folder / out, settings=settings, workers=workers))


def test_two_processes_write_the_bytes_of_one(job: Path, tiny_checkpoint: Path) -> None:
    said = run(job, tiny_checkpoint, "two", Workers(processes=2, num_workers=1))
    assert said.startswith("21 of 21 rows, 21 of them in this run")
    assert contents(job / "two") == contents(job / "one")


def killing(times: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Kill the worker process that is given a shard, so many times; returns whom."""
    killed: list[int] = []
    ask = processes._Slot._ask
    lock = threading.Lock()

    def ask_or_kill(slot: processes._Slot, line: str, shard: int | None) -> processes.Reply:
        with lock:
            if shard == 2 and len(killed) < times:
                assert slot._process is not None
                os.kill(slot._process.pid, signal.SIGKILL)
                slot._process.wait()
                killed.append(slot._process.pid)
        return ask(slot, line, shard)

    monkeypatch.setattr(processes._Slot, "_ask", ask_or_kill)
    return killed


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_its_shard_repeated(
    job: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = killing(1, monkeypatch)
    run(job, tiny_checkpoint, "once", Workers(processes=2, num_workers=1))
    assert len(killed) == 1
    assert contents(job / "once") == contents(job / "one")


@pytest.mark.slow
def test_a_shard_that_kills_every_process_is_given_up_and_the_others_are_done(
    job: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(processes=2, num_workers=1)
    killed = killing(2, monkeypatch)
    settings = JobSettings(shard_rows=3, on_error="null")
    summary = encode_dataset(
        job / "items.jsonl", tiny_checkpoint, job / "twice", settings=settings, workers=workers
    )
    assert len(set(killed)) == 2
    assert (summary.finished, summary.encoded) == (18, 18)
    ((shard, reason),) = summary.given_up
    assert (shard.index, reason) == (2, "its process was killed by signal 9")
    assert run(job, tiny_checkpoint, "twice", workers).startswith("21 of 21 rows, 3 of them")
    assert contents(job / "twice") == contents(job / "one")


@pytest.mark.slow
def test_a_model_that_does_not_load_is_named_once(job: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder; give an existing model folder"):
        run(job, tmp_path / "nowhere", "none", Workers(processes=2))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_job_takes_its_workers_along_and_goes_on_later(
    number: signal.Signals, code: int, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    source, out = write_lines(tmp_path / "many.jsonl", texts(1500)), tmp_path / "out"
    command = [
        *(sys.executable, "-m", "mmembed", "encode", source, "--model", tiny_checkpoint),
        *("--out", out, "--shard-rows", "10", "--processes", "2", "--num-workers", "1"),
    ]
    job = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    manifest = out / "manifest.jsonl"
    while not (manifest.exists() and manifest.stat().st_size):
        assert job.poll() is None
    workers = children_of(job.pid)
    assert len(workers) == 2
    job.send_signal(number)
    _, shown = job.communicate()
    assert job.returncode == code
    assert (code < 0) or "run the same command again to go on" in shown
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        pass
    committed = sum(json.loads(line)["rows"] for line in manifest.read_bytes().splitlines())
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"1,500 of 1,500 rows, {1500 - committed:,} of them in this run" in done.stdout


def children_of(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        fields = status.read_text().rpartition(")")[2].split()
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return found
