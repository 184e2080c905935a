"""Compiled layers give the loss and the gradients of eager ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.steps import Step
from tests.training.test_grad_cache import ROUNDING, difference

pytestmark = pytest.mark.slow  # compiling takes minutes

MISSING = """
import sys
from mmembed.encoder.checkpoint import load_encoder
from mmembed.errors import ConfigError
encoder, _ = load_encoder(sys.argv[1])
try:
    encoder.backbone.compile_layers()
except ConfigError as error:
    print(error)
"""


def test_a_missing_compiler_is_named_before_the_first_step(tiny_checkpoint: Path, tmp_path: Path):
    environment = {
        **os.environ,
        "CXX": "no-such-compiler",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", MISSING, str(tiny_checkpoint)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "compile: torch.compile does not work for cpu here (" in done.stdout, done.stderr
    assert "set compile: false" in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("again", [False, True])
def test_loss_and_gradients_are_those_of_eager_layers(again: bool, tiny_checkpoint: Path):
    torch.compiler.reset()
    stage = {"gradient_checkpointing": again}
    eager, compiled = Step(tiny_checkpoint, stage=stage), Step(tiny_checkpoint, stage=stage)
    compiled.encoder.backbone.compile_layers()
    for chunk_tokens in (None, 300, 100):
        assert difference(compiled.ours(chunk_tokens), eager.ours(chunk_tokens)) < ROUNDING
