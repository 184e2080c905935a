"""Freed memory stays with a process that computes on a CPU."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from mmembed.encoder.heap import keep_freed_memory

FAULTS = """
import ctypes, resource, sys
import torch
from mmembed.encoder.heap import keep_freed_memory
ctypes.CDLL("libc.so.6").mallopt(-3, 1 << 17)  # its beginning; later it depends on luck
kept = keep_freed_memory(torch.device("cpu")) if sys.argv[1] == "keep" else False
def blocks():
    for _ in range(20):
        held = [torch.ones(1_500_000) for _ in range(8)]
        del held
blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
blocks()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_the_system_is_asked_for_pages_once():
    kept, faults = run("keep")
    if kept == "False":
        pytest.skip("another libc, or the user has told it what to keep")
    assert faults < 10_000  # eight blocks have 12,000 pages
    assert run("leave")[1] > 100_000


def run(what):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, what], capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept, int(faults)


def test_other_devices_and_what_the_user_told_the_allocator_are_left_alone(monkeypatch):
    assert not keep_freed_memory(torch.device("meta"))
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert not keep_freed_memory(torch.device("cpu"))
