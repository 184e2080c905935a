"""Counters, gauges and histograms in the text format that Prometheus reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["CONTENT_TYPE", "Metrics", "resident_bytes"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "mmembed_"
_HELP: dict[str, tuple[str, str]] = {
    "http_requests_total": ("counter", "Answers by route, method and status."),
    "http_request_seconds": ("histogram", "From the head of a request to its answer, by route."),
    "http_buffered_bytes": ("gauge", "Bodies in memory."),
    "items_total": ("counter", "Items accepted, by engine and kind."),
    "item_errors_total": ("counter", "Items that failed, by engine and code."),
    "tokens_total": ("counter", "Tokens of the language model, by engine."),
    "rejected_total": ("counter", "Requests refused because the queue was full, by engine."),
    "cancelled_total": ("counter", "Requests given up: timeout, or the client left, by engine."),
    "queue_requests": ("gauge", "Requests that are not answered yet, by engine."),
    "queue_cost": ("gauge", "Tokens of both towers that wait or run, by engine."),
    "batch_items": ("histogram", "Items that ran together, by engine."),
    "batch_cost": ("histogram", "Tokens of both towers that ran together, by engine."),
    "model_seconds": ("histogram", "Of one batch in the model, by engine."),
    "prepare_seconds": ("histogram", "To decode and tokenise what is prepared together."),
    "decode_processes_total": ("counter", "Decode processes started; files that kill them add."),
    "model_faults_total": ("counter", "Batches on which the model raised, by engine."),
    "process_resident_bytes": ("gauge", "Memory of the server process."),
    "ready": ("gauge", "1 when requests are accepted."),
}
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_COSTS = (16, 64, 256, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
_BUCKETS = {"batch_items": _COUNTS, "batch_cost": _COSTS}
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Labels = tuple[tuple[str, str], ...]


class _Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * len(bounds)
        self.total = 0
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.total += 1
        self.sum += value
        for at, bound in enumerate(self.bounds):
            if value <= bound:
                self.counts[at] += 1


class Metrics:
    """What a server counts. Thread-safe; every name is in `_HELP`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, _Histogram]] = {}
        self._gauges: dict[str, list[tuple[Labels, Callable[[], float]]]] = {}

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            series = self._values.setdefault(name, {})
            key = tuple(labels.items())
            series[key] = series.get(key, 0) + value

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Enter a value into a histogram."""
        with self._lock:
            series = self._histograms.setdefault(name, {})
            key = tuple(labels.items())
            if key not in series:
                series[key] = _Histogram(_BUCKETS.get(name, _SECONDS))
            series[key].observe(value)

    def gauge(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """`read` is asked whenever the metrics are."""
        with self._lock:
            self._gauges.setdefault(name, []).append((tuple(labels.items()), read))

    def value(self, name: str, **labels: str) -> float:
        """Of a counter."""
        with self._lock:
            return self._values.get(name, {}).get(tuple(labels.items()), 0)

    def render(self) -> str:
        """Everything, as text."""
        with self._lock:
            values = {name: dict(series) for name, series in self._values.items()}
            gauges = {name: list(series) for name, series in self._gauges.items()}
            histograms = {
                name: [(labels, list(one.counts), one.total, one.sum, one.bounds)
                       for labels, one in series.items()]
                for name, series in self._histograms.items()
            }  # fmt: skip
        lines: list[str] = []
        for name, (kind, text) in _HELP.items():
            full = _PREFIX + name
            found = [_line(full, labels, value) for labels, value in values.get(name, {}).items()]
            found += [_line(full, labels, read()) for labels, read in gauges.get(name, [])]
            for labels, counts, total, summed, bounds in histograms.get(name, []):
                steps = [*zip(map(_number, bounds), counts, strict=True), ("+Inf", total)]
                for bound, count in steps:
                    found.append(_line(f"{full}_bucket", (*labels, ("le", bound)), count))
                found.append(_line(f"{full}_sum", labels, summed))
                found.append(_line(f"{full}_count", labels, total))
            if found:
                lines += [f"# HELP {full} {text}", f"# TYPE {full} {kind}", *found]
        return "\n".join(lines) + "\n"


def resident_bytes() -> float:
    """Memory of this process; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * 4096.0


def _line(name: str, labels: Labels, value: float) -> str:
    if not labels:
        return f"{name} {_number(value)}"
    inside = ",".join(f'{key}="{text.translate(_ESCAPES)}"' for key, text in labels)
    return f"{name}{{{inside}}} {_number(value)}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
