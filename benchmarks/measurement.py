"""Interleaved timing of two functions, so that whatever else the machine does hits both alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

__all__ = ["Cost", "compare", "spread", "timed"]


@dataclass(frozen=True)
class Cost:
    """One timed call. `cpu_seconds` adds up all threads and child processes.

    `peak_mib` is the growth of this process's resident memory during the call, at least 1: what an
    earlier call left with the allocator is not counted. None where the system does not tell.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float | None


def compare(
    ours: Callable[[], np.ndarray],
    theirs: Callable[[], np.ndarray],
    *,
    rounds: int,
    progress: Callable[[int], None],
) -> tuple[list[tuple[Cost, Cost]], float]:
    """Time both `rounds` times, in turn first, after one call of each that does not count.

    Returns:
        (ours, theirs) of each round, and the largest 1 - cosine between the vectors.
    """
    mine, other = ours(), theirs()
    pairs = []
    for number in range(rounds):
        if number % 2:
            second, first = timed(theirs), timed(ours)
        else:
            first, second = timed(ours), timed(theirs)
        pairs.append((first, second))
        progress(number + 1)
    return pairs, _largest_difference(mine, other)


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median, least and greatest."""
    return median(values), min(values), max(values)


def _largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    left, right = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float((1 - (left * right).sum(axis=1) / norms).max())


def timed(call: Callable[[], Any]) -> Cost:
    """What one call takes."""
    gc.collect()
    resident = _reset_peak_memory()
    cpu, start = _cpu_seconds(), time.perf_counter()
    call()
    seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    peak = _status_mib("VmHWM")
    growth = max(1.0, peak - resident) if peak is not None and resident is not None else None
    return Cost(seconds, cpu, growth)


def _cpu_seconds() -> float:
    """Of this process and, on Linux, of its living children."""
    total = time.process_time()
    ticks = 100  # USER_HZ is 100 on every Linux that Python runs on
    for listing in Path("/proc/self/task").glob("*/children"):
        for child in listing.read_text().split():
            try:
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # ended meanwhile
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def _reset_peak_memory() -> float | None:
    """Resident MiB now, with the kernel's high-water mark set back to it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status_mib("VmRSS")


def _status_mib(field: str) -> float | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return None
