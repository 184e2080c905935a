"""metrics.jsonl: one JSON row for each logged step, the source of every curve.

A row of a logged step has `loss`, `task_loss`, `learning_rate`, `grad_norm`, `temperature`, the
rates of `StepClock`, `peak_memory_bytes`, what the loss counts (`masked_fraction`, `accuracy`, ...)
and, for an embedder, what `observation.observe` measures. A row of an evaluation has its own names.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from mmembed.errors import TrainingDiverged

__all__ = ["MetricsLog", "StepClock", "numbers", "peak_memory_bytes", "read_metrics"]

Mirror = Callable[[Mapping[str, Any]], None]


class MetricsLog:
    """Appends rows to a file, each with one flush. A context manager.

    Args:
        path: the file.
        from_step: rows after it are dropped, because a resumed run repeats them.
        enabled: False writes nothing (processes other than the first).
        mirror: gets every row that is written.
    """

    def __init__(
        self,
        path: Path,
        *,
        from_step: int = 0,
        enabled: bool = True,
        mirror: Mirror | None = None,
    ) -> None:
        self._file = None
        self._mirror = mirror
        if not enabled:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(path) if from_step and row["step"] <= from_step]
        aside = path.with_name(path.name + ".tmp")
        aside.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        aside.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, **row: Any) -> dict[str, Any]:
        """Append a row; returns it."""
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            if self._mirror is not None:
                self._mirror(row)
        return row

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, TrainingDiverged):
            self.write(
                step=error.step, loss=error.loss, grad_norm=error.grad_norm, rows=dict(error.rows)
            )
        if self._file is not None:
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that a crash cut off is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class StepClock:
    """Means and rates of the steps since the last reading.

    Args:
        num_processes: that take part; each sees its share of the tokens.
    """

    def __init__(self, *, num_processes: int = 1) -> None:
        self._num_processes = num_processes
        self._begin = time.perf_counter()
        self._waited = 0.0
        self._paused = 0.0
        self._tokens = self._samples = 0
        self._losses: dict[str, list[float]] = {}

    def count(self, tokens: int, samples: int, task: str, loss: float) -> None:
        """One step. `tokens` are this process's, `samples` are queries of the global batch."""
        self._tokens += tokens * self._num_processes
        self._samples += samples
        self._losses.setdefault(task, []).append(loss)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is no training: evaluations and checkpoints."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - begin

    def read(self, wait_seconds: float) -> dict[str, Any]:
        """`wait_seconds` is the loader's total so far.

        Returns:
            `task_loss`: the mean loss of each task that had a batch; `tokens_per_second` and
            `samples_per_second` of all processes; `data_wait_share`: of the time, spent waiting.
        """
        now = time.perf_counter()
        elapsed = max(now - self._begin - self._paused, 1e-9)
        reading = {
            "task_loss": {task: sum(each) / len(each) for task, each in self._losses.items()},
            "tokens_per_second": self._tokens / elapsed,
            "samples_per_second": self._samples / elapsed,
            "data_wait_share": min((wait_seconds - self._waited) / elapsed, 1.0),
        }
        self._begin, self._waited, self._paused = now, wait_seconds, 0.0
        self._tokens = self._samples = 0
        self._losses = {}
        return reading


def numbers(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """The values of 0-dim tensors, with one wait for the device."""
    if not metrics:
        return {}
    stacked = torch.stack([value.detach().float() for value in metrics.values()])
    return dict(zip(metrics, stacked.tolist(), strict=True))


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory so far: allocated on a GPU, else resident of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        import psutil  # type: ignore[import-untyped]  # accelerate needs it too

        return int(psutil.Process().memory_info().peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
