"""What is drawn for a row: the same for the same seed, row and name, on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

__all__ = ["draw", "seed_of"]


def draw(shares: Mapping[str, float], *, seed: int, row: str, name: str) -> str:
    """One of the values, each as often as its share of the sum says."""
    point = _number(seed, row, name) / 2**64 * sum(shares.values())
    for value, share in shares.items():
        point -= share
        if point < 0:
            return value
    return [value for value, share in shares.items() if share > 0][-1]


def seed_of(seed: int, row: str, name: str) -> int:
    """A seed of 31 bits for one request."""
    return _number(seed, row, name) >> 33


def _number(seed: int, row: str, name: str) -> int:
    digest = hashlib.sha256(f"{seed}\0{row}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
