"""A soup holds one tensor of each member in memory, not the models."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

NUM_TENSORS = 12
TENSOR_MB = 8
MODEL_MB = NUM_TENSORS * TENSOR_MB

SCRIPT = """
import resource, sys
from pathlib import Path
from mmembed.soup import soup

def peak_mb():
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

folder = Path(sys.argv[1])
for name in ("small", "large"):
    for method in ("linear", "slerp"):
        soup([folder / name / "a", folder / name / "b"], output=folder / "out", method=method)
    sys.stdout.write(f"{peak_mb()} ")
"""


def write_sparse_model(folder: Path, num_tensors: int) -> None:
    """A folder of zeros that takes no room on disk."""
    folder.mkdir(parents=True)
    size = TENSOR_MB * 2**20
    header = {
        f"t{number}": {"dtype": "BF16", "shape": [1024, size // 2048],
                       "data_offsets": [number * size, (number + 1) * size]}
        for number in range(num_tensors)
    }  # fmt: skip
    payload = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(payload)) + payload)
        file.truncate(8 + len(payload) + num_tensors * size)
    (folder / "config.json").write_text("{}")


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    for size, num_tensors in (("small", 3), ("large", NUM_TENSORS)):
        for name in "ab":
            write_sparse_model(tmp_path / size / name, num_tensors)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    small, large = map(float, done.stdout.split())
    # two members have 144 MB more in the second pair; a few MB of allocator's slack are no model
    assert large - small < MODEL_MB / 2
