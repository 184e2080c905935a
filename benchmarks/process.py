"""One side of a comparison in a process of its own: `python -m benchmarks.process START THREADS`.

The process says when it has warmed up; then every line it reads is one measurement, whose cost it
writes as a line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measurement import Run, Side, Start, resident_mib, timed

__all__ = ["InThisProcess", "SideProcess", "main"]


class InThisProcess:
    """A side without a process of its own: starts sooner, but its memory says little."""

    def __init__(self, start: Start) -> None:
        module, _, name = start.target.partition(":")
        self._side: Side = getattr(importlib.import_module(module), name)(**start.arguments)
        self._resident = resident_mib()
        self._side.warm_up()

    def measure(self) -> Run:
        cost, result = timed(self._side.call, resident=self._resident)
        return {**cost, **self._side.facts(result)}

    def close(self) -> None:
        self._side.close()


class SideProcess:
    """A side that has its process, and only `threads` cores of the machine if that is given."""

    def __init__(self, start: Start, threads: int | None) -> None:
        given = json.dumps({"target": start.target, "arguments": dict(start.arguments)})
        limit = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        self._name = start.target
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.process", given, str(threads or 0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            env={**os.environ, **limit},
        )
        self.pid = self._process.pid
        self._answer()

    def measure(self) -> Run:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found: Run = self._answer()
        return found

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"{self._name} ended with {self._process.returncode}; see above")
        return json.loads(line)


def main(given: str, threads: str) -> None:
    """Serve one side until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    if int(threads) and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    side = InThisProcess(Start(**json.loads(given)))
    answers.write('"ready"\n')
    answers.flush()
    for _ in sys.stdin:
        answers.write(json.dumps(side.measure()) + "\n")
        answers.flush()
    side.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
