"""Members to make soups of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmembed.encoder.checkpoint import load_encoder, save_encoder


@pytest.fixture(scope="session")
def members(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three model folders whose weights differ; do not write into them."""
    root = tmp_path_factory.mktemp("members")
    folders = []
    for number in range(3):
        encoder, processor = load_encoder(tiny_checkpoint)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
        extra = {
            "temperature.theta.a": torch.tensor(float(number)),
            "quantizer.step": torch.full((4,), 0.1 * (number + 1)),
        }
        save_encoder(root / f"m{number}", encoder, processor, extra_tensors=extra)
        folders.append(root / f"m{number}")
    return folders
