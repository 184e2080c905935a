"""Pictures that look alike: perceptual hashes within a Hamming distance, found by sorting.

Two hashes that differ in at most d bits agree on at least two of d + 2 blocks of bits. So for each
pair of blocks the hashes are sorted by these bits, and only those that agree there are compared:
for d = 4 fifteen sorts, with some twenty bits to agree on. Nothing is missed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np

from mmembed.inspection.content import COLOURS, PictureSignature

__all__ = ["MAX_COLOUR_DIFFERENCE", "MAX_DISTANCE", "PictureColumn", "near_pictures"]

MAX_DISTANCE = 4
# Of a mean colour of a quarter, of 255. Copies of emoji that were scaled, recompressed or cropped
# by 1 % differ by up to 7; it separates pictures that differ in colour only.
MAX_COLOUR_DIFFERENCE = 12
_BITS = 64
_PAIRS_AT_ONCE = 1 << 20


class PictureColumn:
    """Signatures of pictures, each with a number that says whose it is: 36 bytes a picture."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._colours = bytearray()
        self._owners = array("Q")
        self._exact = array("Q")

    def __len__(self) -> int:
        return min(
            len(self._hashes), len(self._colours) // COLOURS, len(self._owners), len(self._exact)
        )

    def add(self, signature: PictureSignature, owner: int, exact: int = 0) -> None:
        """`exact`: equal for items that repeat exactly."""
        size = len(self)  # what an interrupt left half added is cut off
        del self._hashes[size:], self._colours[COLOURS * size :]
        del self._owners[size:], self._exact[size:]
        self._exact.append(exact)
        self._owners.append(owner)
        self._colours += signature.colours
        self._hashes.append(signature.hash)

    @property
    def num_bytes(self) -> int:
        return (24 + COLOURS) * len(self)

    def hashes(self) -> np.ndarray:
        return np.array(self._hashes[: len(self)], dtype=np.uint64)

    def colours(self) -> np.ndarray:
        """(n, `COLOURS`) uint8."""
        size = len(self)
        return np.frombuffer(bytes(self._colours), np.uint8, size * COLOURS).reshape(size, COLOURS)

    def exact(self) -> np.ndarray:
        return np.array(self._exact[: len(self)], dtype=np.uint64)

    def owners(self) -> np.ndarray:
        return np.array(self._owners[: len(self)], dtype=np.uint64)


def near_pictures(
    mine: PictureColumn, others: PictureColumn | None = None, *, distance: int = MAX_DISTANCE
) -> Iterator[tuple[int, int, int]]:
    """(position in `mine`, position in `others`, distance) of pictures that look alike.

    Args:
        others: None: pairs within `mine`, the later position first. Where many are alike, each is
            named with the first of them that its neighbours in the sort led to, not with all.
        distance: of the hashes, at most.

    Yields:
        One entry for each position of `mine` that is near any: the nearest; of equally near ones
        the first.
    """
    if not len(mine) or (others is not None and not len(others)):
        return
    within = others is None
    others = mine if others is None else others
    left = _Distinct(mine)
    right = left if within else _Distinct(others)
    best: dict[int, tuple[int, int]] = {}  # position in mine -> (distance, position in others)

    def note(position: int, other: int, bits: int) -> None:
        if within and position < other:
            position, other = other, position
        if position not in best or (bits, other) < best[position]:
            best[position] = bits, other

    for first, second in _candidates(left.hashes, right.hashes, distance, within):
        bits = np.bitwise_count(left.hashes[first] ^ right.hashes[second])
        difference = left.colours[first].astype(np.int16) - right.colours[second]
        alike = (bits <= distance) & (np.abs(difference).max(axis=1) <= MAX_COLOUR_DIFFERENCE)
        for a, b, count in zip(first[alike], second[alike], bits[alike], strict=True):
            note(int(left.first[a]), int(right.first[b]), int(count))
    if within:
        for position, earlier in left.repeated():
            note(position, earlier, 0)
    else:
        for position, earlier in left.repeated():
            if earlier in best:
                bits, other = best[earlier]
                note(position, other, bits)
    for position in sorted(best):
        bits, other = best[position]
        yield position, other, bits


class _Distinct:
    """Each signature once: an icon that stands in every row is compared once."""

    def __init__(self, column: PictureColumn) -> None:
        hashes, colours = column.hashes(), column.colours()
        keys = np.concatenate([hashes[:, None].view(np.uint8).reshape(len(hashes), 8), colours], 1)
        whole = np.ascontiguousarray(keys).view(np.dtype((np.void, 8 + COLOURS))).ravel()
        _, self.first, self._which = np.unique(whole, return_index=True, return_inverse=True)
        self.hashes, self.colours = hashes[self.first], colours[self.first]

    def repeated(self) -> Iterator[tuple[int, int]]:
        """(position, the first position with the same signature)."""
        earlier = self.first[self._which.ravel()]
        for position in np.flatnonzero(earlier != np.arange(len(earlier))):
            yield int(position), int(earlier[position])


def _candidates(
    left: np.ndarray, right: np.ndarray, distance: int, within: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices of hashes that agree on two blocks of bits; a pair may come several times."""
    edges = np.linspace(0, _BITS, distance + 3).round().astype(int)
    masks = [sum(1 << bit for bit in range(low, high)) for low, high in pairwise(edges)]
    for one, two in combinations(masks, 2):
        mask = np.uint64(one | two)
        left_keys, right_keys = left & mask, right & mask
        order = np.argsort(right_keys, kind="stable")
        ordered = right_keys[order]
        starts = np.searchsorted(ordered, left_keys, side="left")
        counts = np.searchsorted(ordered, left_keys, side="right") - starts
        busy = np.flatnonzero(counts > (1 if within else 0))
        ends = np.cumsum(counts[busy])
        begin = 0
        while begin < len(busy):
            done = ends[begin - 1] if begin else 0
            stop = max(begin + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, "right")))
            some = busy[begin:stop]
            first = np.repeat(some, counts[some])
            inside = np.arange(len(first)) - np.repeat(np.cumsum(counts[some]), counts[some])
            second = order[np.repeat(starts[some] + counts[some], counts[some]) + inside]
            if within:
                kept = first < second
                first, second = first[kept], second[kept]
            yield first, second
            begin = stop
