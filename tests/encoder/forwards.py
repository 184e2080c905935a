"""Counts what reaches a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def counted(model: Any, *, fits: int | None = None) -> Iterator[list[int]]:
    """Tokens and patches of each forward pass of an Embedder or Reranker.

    Args:
        fits: more of them than this together are out of memory.
    """
    seen: list[int] = []

    def look(_: Any, inputs: Any) -> None:
        pixels = inputs[0]["pixel_values"]
        cost = len(inputs[0]["input_ids"]) + (0 if pixels is None else len(pixels))
        seen.append(cost)
        if fits is not None and cost > fits:
            raise torch.OutOfMemoryError("no room")

    hook = model.encoder.register_forward_pre_hook(look)
    try:
        yield seen
    finally:
        hook.remove()
