"""Fixtures that several test folders share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

TINY_TEXTS = (
    "a red apple moving left",
    "first a dog, then a car",
    "the grinning face of a cat and a dog in the rain",
    "Find the video snippet that corresponds to the given caption: ",
    "Represent the given image in one word.",
    "You are a helpful assistant.",
    "ein roter Apfel, una manzana roja, une pomme rouge",
    "苹果 りんご 사과 яблоко تفاحة सेब",
)


@pytest.fixture(scope="session", autouse=True)
def _own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of a test reaches the user's cache folder, nor the other way round."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMEMBED_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random Qwen2-VL folder whose embeddings differ clearly; do not write into it."""
    from mmembed.encoder.scratch import create_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    return create_checkpoint(
        folder, TINY_TEXTS * 4, vocab_size=400, min_image_tokens=16, weight_scale=1.6
    )


@pytest.fixture(scope="session")
def tiny_reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Likewise for a reranker, with a tied head; `yes` and `no` are one token each."""
    from mmembed.encoder.scratch import create_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints") / "reranker"
    return create_checkpoint(
        folder,
        [*TINY_TEXTS * 4, *["yes", "no"] * 40],
        vocab_size=400,
        min_image_tokens=16,
        weight_scale=1.6,
        prompt="qwen3_vl_reranker",
    )
