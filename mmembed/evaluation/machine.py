"""The machine of a run: processes, threads, what it is."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["default_threads", "hardware", "threads"]

# Rows depend on the threads of a process within rounding, so their number must not follow from
# the number of processes.
_MOST_THREADS = 4


def default_threads(device: str | None) -> int | None:
    """Of a process on a CPU; None on a GPU, whose kernels they do not touch."""
    import torch

    if torch.cuda.is_available() and (device is None or device.startswith("cuda")):
        return None
    return min(_MOST_THREADS, torch.get_num_threads())


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many threads of torch in this process while the block runs; None changes nothing."""
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def hardware() -> dict[str, Any]:
    """For the record of a run."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"machine": platform.platform(), "cores": os.cpu_count(), "gpus": gpus}
