"""What a call takes of the memory that may run out, and how much of it there is.

On a GPU that is what PyTorch has allocated; on a CPU what of this process is resident, which counts
everything: Python, libraries, weights, prepared data.
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch

from mmembed.training.metrics import peak_memory_bytes

__all__ = ["PeakMeter", "available_bytes"]

_CONTAINER_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


class PeakMeter:
    """The most memory between `begin` and `read`.

    Attributes:
        exact: False where the system cannot forget an earlier peak; `read` is then a bound.
    """

    def __init__(self, device: torch.device) -> None:
        self.exact = True
        self._device = device
        gc.collect()  # of models before this one; all of it, which takes long

    def begin(self) -> int:
        """Start over; returns the bytes in use now, without what allocators merely keep."""
        gc.collect(1)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            return torch.cuda.memory_allocated(self._device)
        _return_free_pages()
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.exact = False
        return _resident_bytes()

    def read(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        # what getrusage tells starts from the process that started this one
        return _status_bytes("VmHWM") or peak_memory_bytes(self._device)


def available_bytes(device: torch.device) -> int:
    """What this process could have: free memory and what it holds already."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    import psutil  # type: ignore[import-untyped]  # accelerate needs it too

    total = int(psutil.virtual_memory().available) + _resident_bytes()
    return min([total, *(limit for path in _CONTAINER_LIMITS if (limit := _limit(Path(path))))])


def _resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _status_bytes(field: str) -> int | None:
    """A line of /proc/self/status; None where there is no such file."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    lines = (line.split() for line in status.splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == f"{field}:"), None)


def _limit(path: Path) -> int | None:
    """Of this container; None without one."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _return_free_pages() -> None:
    """Let glibc give back what it keeps of freed memory, or it would count for the next call."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        pass
