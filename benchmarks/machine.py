"""Where and when a measurement was taken, for its record."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["gpu_name", "machine", "when"]

_PACKAGES = (
    "mmembed sentence-transformers torch transformers tokenizers numpy pillow av decord "
    "qwen-vl-utils pymupdf lancedb"
).split()


def when() -> dict[str, str]:
    """The time, and the commit that was measured; `+changes` when the tree differs from it."""
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty=+changes", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit}


def machine(device: str) -> dict[str, Any]:
    """Processor, GPU, system and versions."""
    found = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }
    return found if device == "cpu" else {"gpu": gpu_name(device), **found}


def gpu_name(device: str) -> str:
    """As its vendor calls it."""
    import torch

    return torch.cuda.get_device_name(device)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "from source" if name == "mmembed" else "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
