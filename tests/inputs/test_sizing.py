"""Sizes and frame choices equal those of qwen_vl_utils and transformers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from mmembed.errors import InputError
from mmembed.inputs.sizing import (
    MediaBudget,
    frame_count_for_fps,
    frame_indices,
    frame_times,
    nearest_frames,
    smart_resize,
)

BOUNDS = [(4 * 784, 16 * 784), (256 * 784, 1280 * 784), (160 * 784, 180 * 784)]


@pytest.fixture(scope="module")
def oracle():
    """qwen_vl_utils, whose decord import may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from qwen_vl_utils import vision_process
    return vision_process


@pytest.mark.parametrize(("min_pixels", "max_pixels"), BOUNDS)
def test_sizes_equal_qwen_vl_utils(oracle, min_pixels, max_pixels):
    sizes = np.random.default_rng(0).integers(1, 5000, (2000, 2)).tolist()
    compared = 0
    for height, width in [*sizes, [1, 1], [2, 400], [1, 200], [28, 28], [1080, 1920]]:
        if max(height, width) / min(height, width) > 200:
            continue
        expected = oracle.smart_resize(height, width, 28, min_pixels, max_pixels)
        found = smart_resize(height, width, factor=28, min_pixels=min_pixels, max_pixels=max_pixels)
        if 0 in expected:  # qwen_vl_utils returns an empty picture for thin strips
            expected = tuple(max(28, side) for side in expected)
        assert found == expected, (height, width)
        compared += 1
    assert compared > 1900


def test_sizes_equal_transformers():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as reference

    for height, width in np.random.default_rng(1).integers(14, 4000, (1000, 2)).tolist():
        if max(height, width) / min(height, width) > 100:
            continue
        found = smart_resize(height, width, factor=28, min_pixels=200704, max_pixels=1003520)
        assert found == reference(height, width, 28, 200704, 1003520), (height, width)


@pytest.mark.parametrize(("height", "width"), [(1, 201), (20000, 1), (0, 5)])
def test_extreme_ratios_are_refused(height, width):
    with pytest.raises(InputError) as caught:
        MediaBudget(3136, 12544).resize(height, width)
    assert caught.value.code == "aspect_ratio"


def test_frame_counts_for_fps_equal_qwen_vl_utils(oracle):
    for total in [2, 3, 4, 5, 7, 30, 61, 900, 5000]:
        for rate in [5.0, 23.976, 30.0]:
            for fps in [0.1, 0.5, 1.0, 2.0, 7.3]:
                expected = oracle.smart_nframes({"fps": fps}, total, rate)
                assert frame_count_for_fps(fps, total_frames=total, video_fps=rate) == expected
    assert frame_count_for_fps(2.0, total_frames=1, video_fps=30.0) == 1


def test_frame_indices_equal_torch_linspace():
    torch = pytest.importorskip("torch")
    for first, last in [(0, 59), (0, 15), (7, 300), (0, 12345), (3, 3)]:
        for count in [1, 2, 4, 7, 8, 64, 100]:
            expected = torch.linspace(first, last, count).round().long().tolist()
            assert frame_indices(first, last, count) == expected, (first, last, count)


@pytest.mark.parametrize("total", [1, 2, 5, 16, 60, 61])
@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_at_constant_rate_times_choose_the_frames_that_indices_choose(total, count):
    times = [index / 29.97 for index in range(total)]
    chosen = nearest_frames(times, frame_times(times[0], times[-1], count))
    assert chosen == frame_indices(0, total - 1, count)
