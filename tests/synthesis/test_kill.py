"""A run that is killed at any moment and started again: one row each, nothing paid twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.endpoints.server import ModelServer
from tests.synthesis.scripted import SMALL, DiligentModel, documents_file, lines_of

NUM_ROWS = 40
CONCURRENCY = 4
COMMAND = """
import signal
import sys
from pathlib import Path
from mmembed.endpoints.client import EndpointClient
from mmembed.synthesis.pipeline import load_pipeline
from mmembed.synthesis.rows import open_rows
from mmembed.synthesis.runner import synthesize
signal.signal(signal.SIGINT, signal.default_int_handler)  # background shells ignore it
url, folder = sys.argv[1], Path(sys.argv[2])
with EndpointClient(url, model="toy", concurrency=4, first_backoff_seconds=0.001) as client:
    rows = open_rows(str(folder / "documents.jsonl"))
    synthesize(load_pipeline(str(folder / "small.yaml")), rows, client, folder / "out")
"""


def start(server: ModelServer, folder: Path) -> subprocess.Popen[bytes]:
    repository = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, server.url, str(folder)],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        stderr=subprocess.PIPE,
    )


def logged_keys(folder: Path) -> set[str]:
    path = folder / "out" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return {record["key"] for record in records if record["kind"] == "answer"}


@pytest.mark.parametrize(
    ("how", "times"), [(signal.SIGKILL, 2), (signal.SIGINT, 1)], ids=["kill", "ctrl-c"]
)
def test_a_stopped_run_goes_on_without_a_loss(
    tmp_path: Path, how: signal.Signals, times: int
) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    documents_file(tmp_path, NUM_ROWS)
    moments = random.Random(11).sample(range(3, 2 * NUM_ROWS - 8), times)
    reached = threading.Event()
    stop_at = 0

    def watch(number: int, body: dict[str, Any]) -> None:
        if number >= stop_at:
            reached.set()

    with ModelServer(DiligentModel(), fault=watch) as server:
        for moment in sorted(moments):
            reached.clear()
            stop_at = moment
            before, num_before = logged_keys(tmp_path), len(server.requests)
            process = start(server, tmp_path)
            assert reached.wait(60)
            process.send_signal(how)
            process.communicate(timeout=60)
            assert process.returncode != 0
            asked = {r.headers["idempotency-key"] for r in server.requests[num_before:]}
            assert not asked & before
        before, num_before = logged_keys(tmp_path), len(server.requests)
        process = start(server, tmp_path)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
        assert not {r.headers["idempotency-key"] for r in server.requests[num_before:]} & before
        repeated = sum(server.answered.values()) - len(server.answered)
    # only what was in flight at one of the stops may have been answered twice
    assert repeated <= (times * CONCURRENCY if how is signal.SIGKILL else 0)
    rows = lines_of(tmp_path / "out" / "rows.jsonl")
    rejected = lines_of(tmp_path / "out" / "rejected.jsonl")
    assert sorted(row["id"] for row in rows + rejected) == sorted(f"d{n}" for n in range(NUM_ROWS))
    assert [row["id"] for row in rows] == [f"d{n}" for n in range(NUM_ROWS)]
    assert len(logged_keys(tmp_path)) == 2 * NUM_ROWS
