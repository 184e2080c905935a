"""Many clients at once, for a while: nobody gets an error, and memory stays where it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.server_load import Load, bodies, served, soak_clients

pytestmark = pytest.mark.slow


def test_clients_get_answers_or_are_told_to_wait(tiny_checkpoint: Path, tmp_path: Path) -> None:
    async def run() -> Load:
        async with served(tiny_checkpoint, "--num-workers", "2") as server:
            made = bodies(tmp_path)
            await soak_clients(server, made, clients=64, seconds=15)
            return await soak_clients(server, made, clients=64, seconds=30)

    load = asyncio.run(run())
    assert set(load.statuses) <= {"200", "429", "health 200"}, load.statuses
    assert set(load.seconds) == {"text", "texts", "image", "pdf", "health"}
    first, last = load.memory[0], load.memory[-1]
    assert last["server"] - first["server"] < 50
    assert last["decoders"] < 2 * first["decoders"]
