"""The arithmetic between measured steps and a plan."""

from __future__ import annotations

import pytest

from mmembed.config.stage import StageConfig
from mmembed.training.forecast import (
    HEADROOM,
    MemoryLine,
    best_of,
    seconds_per_step,
    settings_of,
)
from mmembed.training.micro_steps import MicroStep, num_passes
from tests.training.test_planner import SHORT, stage


def micro_step(chunk_cost: int, peak_bytes: int) -> MicroStep:
    return MicroStep("memory", "g", 2, 10, 20, chunk_cost, 2, False, 1.0, 0.1, 1.0, peak_bytes, 3.5)


def test_a_line_goes_through_the_last_two_sizes_and_a_single_chunk_has_no_gradients_yet():
    steps = [micro_step(1, 999), micro_step(10, 1500), micro_step(40, 3000)]
    line = MemoryLine.through(steps, rest_bytes=0, gradient_bytes=600)
    assert (line.rest_bytes, line.bytes_per_cost) == (1000, 50)
    assert line.peak(100, 2) == 6000
    assert line.peak(100, 1) == 5400
    assert line.peak(2, 1) == 1000  # gradients are whole when activations are gone
    one = MemoryLine.through(steps[:1], rest_bytes=499, gradient_bytes=0)
    assert (one.rest_bytes, one.bytes_per_cost) == (499, 500)


@pytest.mark.parametrize("memory", [2_000, 4_000, 9_000, 30_000, 200_000])
@pytest.mark.parametrize("written", [None, 50, 700])
@pytest.mark.parametrize("recomputed", [False, True])
def test_what_is_recommended_fits_and_what_fits_stays_as_written(
    memory: int, written: int | None, recomputed: bool
):
    lines = {False: MemoryLine(1000, 50, 300), True: MemoryLine(1000, 10, 300)}
    config = StageConfig.model_validate(
        stage(SHORT, chunk_tokens=written, gradient_checkpointing=recomputed)
    )
    settings = settings_of(
        config, lines, cost=1000, longest=30, memory_bytes=memory, data_bytes=100
    )
    first = settings[0]
    assert (first.chunk_tokens, first.gradient_checkpointing) == (written, recomputed)
    for setting in settings:
        chunk = max(30, setting.chunk_tokens or 1000)
        single = 300 if chunk >= 1000 else 0
        slope = 10 if setting.gradient_checkpointing else 50
        assert setting.peak_bytes == 1100 + slope * chunk - single
        assert setting.fits == (setting.peak_bytes <= HEADROOM * memory)
    best = best_of(settings, recomputed)
    least = 1100 + 10 * 30  # the longest item alone, with checkpointing
    assert (best is not None) == (least <= HEADROOM * memory)
    if first.fits:
        assert best == first
    elif best is not None and 1100 + 50 * 30 <= HEADROOM * memory:
        assert best.gradient_checkpointing == recomputed


def test_the_shortest_resource_decides_how_long_a_step_takes():
    def seconds(prepare: float, num_workers: int, cores: int = 100) -> float:
        return seconds_per_step(2.0, prepare, num_workers=num_workers, busy_cores=4.0, cores=cores)

    assert seconds(1.0, 0) == 3.0
    assert seconds(1.0, 1) == 2.0
    assert seconds(6.0, 1) == 6.0
    assert seconds(6.0, 2) == 3.0
    assert seconds(6.0, 2, cores=4) == (8.0 + 6.0) / 4


def test_chunks_of_an_embedder_are_embedded_twice_but_for_one_and_of_a_reranker_once():
    assert num_passes(1, False, coupled=True) == num_passes(1, False, coupled=False) == 3
    assert num_passes(4, False, coupled=True) == (3 * 4 + 3) / 4
    assert num_passes(4, True, coupled=True) == (4 * 4 + 3) / 4
    assert num_passes(4, True, coupled=False) == 4
