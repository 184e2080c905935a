"""A program that kills a job at every moment at which something reaches the disk.

It loads the model once and forks: each child runs the job and is killed at its n-th flush; then the
job is run again. Prints one JSON line for each kill.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from mmembed import Embedder
from mmembed.search.job_folder import JobSettings, verify_job
from mmembed.search.jobs import encode_dataset
from tests.search.jobs import contents

SETTINGS = JobSettings(shard_rows=3, on_error="null")


def run_and_die(source: Path, embedder: Embedder, out: Path, kill_at: int) -> bool:
    """Whether the child was killed before it was done."""
    child = os.fork()
    if child == 0:
        flush, countdown = os.fsync, kill_at

        def kill_or_flush(descriptor: int) -> None:
            nonlocal countdown
            countdown -= 1
            if countdown == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            flush(descriptor)

        os.fsync = kill_or_flush
        encode_dataset(source, embedder, out, settings=SETTINGS)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)


def main(model: str, source: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    with Embedder.from_pretrained(model, num_workers=1) as embedder:
        encode_dataset(source, embedder, folder / "whole", settings=SETTINGS)
        whole = contents(folder / "whole")
        kill_at = 1
        while run_and_die(source, embedder, folder / f"killed{kill_at}", kill_at):
            out = folder / f"killed{kill_at}"
            manifest = out / "manifest.jsonl"
            lines = manifest.read_bytes().splitlines() if manifest.exists() else []
            committed = sum(json.loads(line)["rows"] for line in lines)
            damaged = []
            if (out / "job.json").exists():
                damaged = [p for p in verify_job(out)[1] if "not encoded yet" not in p]
            again = encode_dataset(source, embedder, out, settings=SETTINGS)
            report = {
                "kill_at": kill_at,
                "committed": committed,
                "encoded_again": again.encoded,
                "rows": again.rows,
                "damaged": damaged,
                "equal": contents(out) == whole,
            }
            sys.stdout.write(json.dumps(report) + "\n")
            kill_at += 1


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
