"""Sample items whose vectors another library must give too; what `export --verify` compares."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmembed.encoder.embedder import Embedder
from mmembed.types import Image, MultimodalInput, Role, Text

__all__ = ["TOLERANCE", "compare"]

TOLERANCE = 1e-5  # of any number of a unit vector in float32
_TEXTS = (
    "a red apple",
    "",
    'quotes " and \\ and {{ braces }} and <tags>',
    "two lines\nof text, 苹果, ünïcode",
    "the quick brown fox jumps over the lazy dog. " * 8,
)
_SIZES = ((224, 224), (640, 360), (90, 300))


def compare(embedder: Embedder, peer: Any) -> dict[str, float]:
    """For each kind of item the largest difference of any number of its unit vectors; NaN where
    one has a NaN.

    Args:
        peer: `encode(items, role=)` gives the other library's rows.
    """
    roles: tuple[Role, ...] = ("query", "document")
    found: dict[str, float] = {}
    for name, items in _samples(embedder).items():
        found[name] = 0.0
        for role in roles:
            ours = embedder.encode(items, role=role, normalize_embeddings=True)
            theirs = np.asarray(peer.encode(items, role=role))
            # unlike max, it keeps a NaN
            found[name] = float(np.maximum(found[name], np.abs(ours - theirs).max()))
    return found


def _samples(embedder: Embedder) -> dict[str, list[MultimodalInput]]:
    texts = [MultimodalInput((Text(text),)) for text in _TEXTS]
    found = {"texts": texts, "texts with an instruction": _instructed(texts)}
    if embedder.processor.config.geometry is not None:
        images = [MultimodalInput((Image(_picture(*size)),)) for size in _SIZES]
        both = [MultimodalInput((*image.parts, Text("a red apple"))) for image in images]
        found |= {
            "images": images,
            "images with an instruction": _instructed(images),
            "images with a text": both,
        }
    return found


def _instructed(items: list[MultimodalInput]) -> list[MultimodalInput]:
    return [MultimodalInput(item.parts, "Find what is shown: ") for item in items]


def _picture(width: int, height: int) -> np.ndarray:
    """Waves of colour: all frequencies, so that another way of resizing shows."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = [np.sin(x * y / scale) for scale in (5_000, 1_500, 700)]
    return np.stack([(127.5 * (1 + wave)).astype(np.uint8) for wave in waves], axis=-1)
