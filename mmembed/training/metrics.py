"""metrics.jsonl: one JSON row for each logged step, the source of every curve."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["MetricsLog", "StepClock", "read_metrics"]


class MetricsLog:
    """Appends rows to a file, each with one flush. A context manager.

    Args:
        path: the file.
        from_step: rows after it are dropped, because a resumed run repeats them.
        enabled: False writes nothing (processes other than the first).
    """

    def __init__(self, path: Path, *, from_step: int = 0, enabled: bool = True) -> None:
        self._file = None
        if not enabled:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(path) if row["step"] <= from_step]
        aside = path.with_name(path.name + ".tmp")
        aside.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        aside.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, **row: Any) -> None:
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that a crash cut off is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class StepClock:
    """Tokens per second and the share of time spent waiting for data, since the last reading."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._waited = 0.0
        self._tokens = 0

    def add_tokens(self, count: int) -> None:
        self._tokens += count

    def read(self, wait_seconds: float) -> dict[str, float]:
        """`wait_seconds` is the loader's total so far."""
        now = time.perf_counter()
        elapsed = max(now - self._begin, 1e-9)
        rates = {
            "tokens_per_second": self._tokens / elapsed,
            "data_wait_share": (wait_seconds - self._waited) / elapsed,
        }
        self._begin, self._waited, self._tokens = now, wait_seconds, 0
        return rates
