"""Ctrl-C and SIGTERM ask a stage to stop after its step; insisting ends the program at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopRequest", "stop_requests"]

# Launchers pass a terminal's Ctrl-C on to processes that the terminal has told already.
SAME_REQUEST_SECONDS = 1.0


class StopRequest:
    """`signal` is the number of the first signal that asked to stop; None before."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Collect requests to stop while the block runs; a second one has its usual effect."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # signals reach the main thread only
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    asked_at = 0.0

    def ask(number: int, _frame: FrameType | None) -> None:
        nonlocal asked_at
        if request.signal is None:
            request.signal, asked_at = number, time.monotonic()
        elif time.monotonic() - asked_at >= SAME_REQUEST_SECONDS:
            _restore(previous)
            signal.raise_signal(number)

    for number in previous:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        _restore(previous)


def _restore(handlers: dict[signal.Signals, signal._HANDLER]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
