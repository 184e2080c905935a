"""The two sides of a comparison: same folder in, vectors out, default settings of each.

A peer gets the items in the form that it understands and that costs it least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["PEERS", "EncodeItems", "load_ours"]

EncodeItems = Callable[[Sequence[Any]], np.ndarray]


def load_ours(folder: Path) -> EncodeItems:
    from mmembed import Embedder

    embedder = Embedder.from_pretrained(folder, device="cpu")
    return lambda items: embedder.encode_document(list(items), show_progress_bar=False)


def _load_sentence_transformers(folder: Path) -> EncodeItems:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")

    def encode(items: Sequence[Any]) -> np.ndarray:
        given = [{"image": str(item)} if isinstance(item, Path) else item for item in items]
        return model.encode_document(given, show_progress_bar=False)

    return encode


PEERS: dict[str, Callable[[Path], EncodeItems]] = {
    "sentence-transformers": _load_sentence_transformers,
}
