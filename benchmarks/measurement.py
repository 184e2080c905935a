"""What one call costs, and the sides of a case measured in turn.

Whatever else the machine does then hits all sides alike, and a ratio within one round means more
than a time. Each side lives in a process of its own (`process.py`), so that no side inherits memory
from another.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Protocol

__all__ = [
    "MEASURES",
    "Case",
    "Cost",
    "Running",
    "Side",
    "Start",
    "measure",
    "ratios",
    "resident_mib",
    "spread",
    "timed",
]

Run = dict[str, Any]  # a Cost, and what a side tells about its result


@dataclass(frozen=True)
class Cost:
    """One timed call. `cpu_seconds` adds up all threads and child processes.

    `total_mib` is the most resident memory during the call, of the process and its children; pages
    that a child shares with its parent count twice. `peak_mib` is what of it is above the process
    before the side's first call, so a child counts in full; at least 1. `gpu_peak_mib` is what
    torch allocated on a GPU during the call. None where the system does not tell.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float | None
    total_mib: float | None
    gpu_peak_mib: float | None = None


MEASURES = {  # name in tables -> field of Cost
    "time": "seconds",
    "CPU time": "cpu_seconds",
    "memory": "peak_mib",
    "GPU memory": "gpu_peak_mib",
}


@dataclass(frozen=True)
class Side:
    """What one side does.

    Args:
        call: what is timed.
        warm_up: runs once before the first call; imports and first allocations do not count.
        facts: of the result of a call; not timed.
        close: ends what the side has started.
    """

    call: Callable[[], Any]
    warm_up: Callable[[], Any]
    facts: Callable[[Any], Run] = lambda result: {}
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Start:
    """Where a side comes from: `module:function`, and its arguments, which JSON can hold."""

    target: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One row of work for several sides; the first of them is what the others are divided by.

    Args:
        count, unit: what one call gets through.
        fresh: every measurement starts a new process; for calls that leave much behind.
        facts: of the runs of all sides, by side.
        about: plain facts of the work, for the record.
    """

    name: str
    sides: Mapping[str, Start]
    count: int
    unit: str
    fresh: bool = False
    facts: Callable[[Mapping[str, Sequence[Run]]], dict[str, Run]] = lambda runs: {}
    about: Mapping[str, Any] = field(default_factory=dict)


class Running(Protocol):
    """A side that has loaded and warmed up."""

    def measure(self) -> Run: ...

    def close(self) -> None: ...


def measure(
    case: Case, *, rounds: int, begin: Callable[[Start], Running], progress: Callable[[str], None]
) -> dict[str, Any]:
    """All sides `rounds` times in turn, in each round another one first."""
    found: dict[str, list[Run]] = {side: [] for side in case.sides}
    with ExitStack() as open_sides:
        running = {}
        if not case.fresh:
            for side, start in case.sides.items():
                progress(f"{case.name}: {side} warms up")
                running[side] = begin(start)
                open_sides.callback(running[side].close)
        names = list(case.sides)
        for number in range(rounds):
            first = number % len(names)
            for side in names[first:] + names[:first]:
                now = begin(case.sides[side]) if case.fresh else running[side]
                try:
                    found[side].append(now.measure())
                finally:
                    if case.fresh:
                        now.close()
                seconds = found[side][-1]["seconds"]
                progress(f"{case.name}: {side}, round {number + 1} of {rounds}, {seconds:.3g} s")
    return {
        "case": case.name,
        "count": case.count,
        "unit": case.unit,
        **case.about,
        "facts": case.facts(found),
        "ratios": ratios(found),
        "sides": found,
    }


def ratios(sides: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Side / first side within each round: median, least and greatest; above 1 the first wins."""
    ours, *others = sides
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for side in others:
        found[side] = {}
        for name, measured in MEASURES.items():
            values = [
                theirs[measured] / max(mine[measured], 1e-9)
                for mine, theirs in zip(sides[ours], sides[side], strict=True)
                if mine.get(measured) is not None and theirs.get(measured) is not None
            ]
            if values:
                found[side][name] = spread(values)
    return found


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and greatest."""
    return median(values), min(values), max(values)


def timed(call: Callable[[], Any], *, resident: float | None) -> tuple[Run, Any]:
    """The cost of one call and its result. `resident`: MiB that the process held before."""
    gc.collect()
    cuda = _cuda()
    held_on_gpu = 0
    if cuda is not None:
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        held_on_gpu = cuda.memory_allocated()
    can_tell = _reset_peaks()
    cpu, start = _cpu_seconds(), time.perf_counter()
    result = call()
    if cuda is not None:
        cuda.synchronize()
    seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    peak = _mib("VmHWM") if can_tell else None
    growth = None if peak is None or resident is None else max(1.0, peak - resident)
    on_gpu = None if cuda is None else (cuda.max_memory_allocated() - held_on_gpu) / 2**20
    return asdict(Cost(seconds, cpu, growth, peak, on_gpu)), result


def resident_mib() -> float | None:
    """Resident MiB of this process and its descendants; None where the system does not tell."""
    return _mib("VmRSS")


def _cuda() -> Any:
    """`torch.cuda` where this process uses it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _processes() -> list[Path]:
    """This process and, on Linux, its living descendants, under /proc."""
    found = [Path("/proc/self")]
    for process in found:
        with suppress(OSError):
            for listing in process.glob("task/*/children"):
                found.extend(Path("/proc", child) for child in listing.read_text().split())
    return found


def _cpu_seconds() -> float:
    """Of this process and its children, living and ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + ended.ru_utime + ended.ru_stime
    ticks = 100  # USER_HZ is 100 on every Linux that Python runs on
    for process in _processes()[1:]:
        with suppress(OSError):  # ended meanwhile
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / ticks
    return total


def _reset_peaks() -> bool:
    """Set the kernel's high-water marks back to what is resident; whether it can."""
    try:
        for process in _processes():
            (process / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _mib(name: str) -> float | None:
    total = 0.0
    for process in _processes():
        try:
            status = (process / "status").read_text()
        except OSError:
            continue
        total += sum(
            int(line.split()[1]) for line in status.splitlines() if line.startswith(name + ":")
        )
    return total / 1024 or None
