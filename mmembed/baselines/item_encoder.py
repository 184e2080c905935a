"""What evaluation asks of a model, whoever made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mmembed.types import MultimodalInput, Role

__all__ = ["ItemEncoder"]


class ItemEncoder(Protocol):
    """Items in, unit float32 rows out, in order. `Embedder` behind `our_model.OurModel` is one.

    Attributes:
        space: 64 hex digits that name everything about the model that changes a vector: weights,
            tokenizer, prompt, budgets, pooling, dtype and kind of kernel. Vectors are kept and
            found again under this name.
        name: for people: the folder, hub id or `open_clip:ViT-B-32`.
        embedding_dimension: length of a row.

    One that counts how often it had to cut what it encoded has `num_truncated` too.
    """

    @property
    def name(self) -> str: ...

    @property
    def space(self) -> str: ...

    @property
    def embedding_dimension(self) -> int: ...

    def encode(
        self,
        items: Sequence[MultimodalInput],
        *,
        role: Role,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        """(N, D) float32 unit rows.

        The same list gives the same bytes in every process that has as many threads.

        Raises:
            InputError: an item that this model cannot encode, with its index.
        """
        ...

    def describe(self) -> Mapping[str, Any]:
        """For `run.json`: hashes, dtype, attention, prompt, limits, device, versions."""
        ...

    def close(self) -> None: ...
