"""What `mmembed plan` foresees of memory is what steps take, in a process that does only that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def measured(tiny_checkpoint: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.planned_memory", str(tiny_checkpoint)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_peak_of_a_chunk_size_that_was_not_measured_is_predicted(measured: Any):
    for predicted, observed in measured["chunks"]:
        assert 1 / 1.6 < predicted / observed < 1.6


def test_the_check_was_predicted_too(measured: Any):
    assert measured["check_num_chunks"] == 1
    assert measured["check_cost"] == measured["largest_cost"]
    predicted, observed = measured["check"]
    assert 1 / 1.6 < predicted / observed < 1.6


def test_recommended_chunks_fit_the_memory_that_is_given(measured: Any):
    assert measured["largest_cost"] / 4 < measured["advised"] <= measured["largest_cost"] / 3
    assert measured["advised_num_chunks"] > 2
    assert measured["advised_peak"] <= measured["memory"]
