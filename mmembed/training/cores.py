"""Cores of the host, shared between torch and the threads that prepare batches."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

__all__ = ["cores_left_by", "num_cores"]


def num_cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def cores_left_by(num_workers: int, device: torch.device) -> Iterator[None]:
    """While training on a CPU, torch uses the cores that preparing leaves; at least one.

    Its threads wait for each other after every operation, so one that has to share its core holds
    up all: on two cores with one busy, two threads trained at a tenth of the speed of one.
    """
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(min(before, max(1, num_cores() - num_workers)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
