"""One thread: these models are so small that starting threads costs more than they compute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.fault_client import RECIPE, Command, FaultServer


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def server(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FaultServer]:
    server = FaultServer(tiny_checkpoint, tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture
def command(tiny_checkpoint: Path, tmp_path: Path) -> Command:
    """The arguments of `mmembed train` for a folder beside others of the test."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(checkpoint=tiny_checkpoint), encoding="utf-8")

    def arguments(output: str, *overrides: str) -> list[str]:
        changes = [word for override in overrides for word in ("--set", override)]
        return [str(recipe), "--output", str(tmp_path / output), *changes]

    return arguments
