"""The other end of `fault_server.py`: start a process, wait for a moment in its work, kill it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmembed.training.metrics import read_metrics

__all__ = [
    "RECIPE",
    "Attempt",
    "Command",
    "FaultServer",
    "digests",
    "loss_curve",
    "saving",
    "steps_logged",
]

Command = Callable[..., list[str]]
RECIPE = """
model: {{path: {checkpoint}}}
defaults: {{batch_size: 6, learning_rate: 3e-3, steps: 2, num_workers: 0, warmup_ratio: 0.2}}
stages:
  - data:
      - adapter: "tests.training.pairs:ColourPairs"
        arguments: {{pictures: false}}
    temperature: {{init: 0.05, learnable: true, per_task: true}}
    save_every: 2
"""
ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


class FaultServer:
    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self._output = folder / "output.txt"
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fault_server.py")), str(checkpoint)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=ENVIRONMENT,
            text=True,
        )
        while self._read() != "ready":  # libraries talk while they are imported
            pass

    def start(self, name: str, *arguments: object, **options: Any) -> Attempt:
        """Run a function of `fault_server` in a process of its own."""
        self._output.unlink(missing_ok=True)
        passed = [each if isinstance(each, int) else str(each) for each in arguments]
        pid = int(self._ask(json.dumps([name, passed, options, str(self._output)])))
        return Attempt(pid, self._output, lambda: int(self._ask("how did it end?")))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the fault server has ended"
        return line.strip()


class Attempt:
    """One process; `wait` it out or `kill` it, one of them once."""

    def __init__(self, pid: int, output: Path, code: Callable[[], int]) -> None:
        self.pid = pid
        self.wait = code  # the exit code; negative when a signal ended the process
        self._output = output

    def kill(self, *, delay: float = 0.0, number: int = signal.SIGKILL) -> int:
        if delay:
            time.sleep(delay)
        os.kill(self.pid, number)
        return self.wait()

    def until(self, reached: Callable[[], bool]) -> None:
        """Return when `reached()`, or when the process has ended."""
        while not reached() and _is_alive(self.pid):
            time.sleep(0.001)

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(encoding="utf-8") if self._output.is_file() else ""


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def loss_curve(stage: Path) -> list[tuple[int, str, str]]:
    """Step, loss and gradient norm of each row of the log, in hex."""
    return [
        (row["step"], float(row["loss"]).hex(), float(row["grad_norm"]).hex())
        for row in read_metrics(stage / "metrics.jsonl")
    ]


def steps_logged(stage: Path) -> int:
    path = stage / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def saving(folder: Path) -> bool:
    """Whether a checkpoint is being written there now."""
    return any(folder.glob(".*tmp-*"))
