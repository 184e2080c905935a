"""Texts that nearly repeat each other: the same words, or MinHash of runs of three words.

Sixteen bands of five minima find pairs with a Jaccard similarity of 0.8 with probability 0.998 and
hand them on for an exact comparison, which reads the rows again; so nothing is reported that is
not similar. After A. Broder, On the resemblance and containment of documents, 1997, and
J. Leskovec et al., Mining of Massive Datasets, chapter 3.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

import numpy as np

from mmembed.inspection.columns import equal_runs
from mmembed.inspection.content import ngram_hashes, word_hashes, words_of

__all__ = ["MIN_SIMILARITY", "TextColumn", "shingles_of", "similarity"]

MIN_SIMILARITY = 0.8
_SHINGLE = 3  # words
_BANDS, _PER_BAND = 16, 5
_AT_ONCE = 4096
_LEADERS = 8

_RANDOM = np.random.default_rng(19970611)
_FACTORS = _RANDOM.integers(1, 1 << 63, (_BANDS * _PER_BAND, 1), dtype=np.uint64) | np.uint64(1)
_TERMS = _RANDOM.integers(0, 1 << 63, (_BANDS * _PER_BAND, 1), dtype=np.uint64)


def shingles_of(text: str) -> np.ndarray:
    """Hashes of the runs of three words; of a shorter text, one of all its words."""
    hashes = word_hashes(words_of(text))
    runs = [np.empty(0, np.uint64), *(each for _, each in ngram_hashes(hashes, _SHINGLE))]
    return np.unique(runs[-1])


def similarity(left: np.ndarray, right: np.ndarray) -> float:
    """Jaccard, of two sets of shingles."""
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / max(len(left) + len(right) - common, 1)


class TextColumn:
    """Sketches of texts, each with a number that says whose it is: 80 bytes a text."""

    def __init__(self) -> None:
        self._owners = array("Q")
        self._exact = array("Q")
        self._bands = bytearray()

    def __len__(self) -> int:
        return min(len(self._owners), len(self._exact), len(self._bands) // (4 * _BANDS))

    def add(self, text: str, exact: int, owner: int) -> None:
        """`exact`: equal for texts that repeat exactly, which is not reported here."""
        shingles = shingles_of(text)
        if not len(shingles):
            return
        bands = _bands_of(shingles)
        size = len(self)  # what an interrupt left half added is cut off
        del self._owners[size:], self._exact[size:], self._bands[4 * _BANDS * size :]
        self._owners.append(owner)
        self._exact.append(exact)
        self._bands += bands.tobytes()

    @property
    def num_bytes(self) -> int:
        return (16 + 4 * _BANDS) * len(self)

    def near(
        self, read: Callable[[int], str], *, threshold: float = MIN_SIMILARITY
    ) -> Iterator[tuple[int, int, float]]:
        """(owner, an earlier owner, similarity) for each text that nearly repeats an earlier one.

        Args:
            read: the text of an owner, to compare candidates exactly.
        """
        size = len(self)
        if not size:
            return
        owners = np.array(self._owners[:size], dtype=np.uint64)
        _, first = np.unique(np.array(self._exact[:size], dtype=np.uint64), return_index=True)
        first.sort()  # each text once, in the order of rows
        bands = np.frombuffer(bytes(self._bands), np.uint32, size * _BANDS).reshape(size, _BANDS)
        similar: dict[tuple[int, int], bool] = {}
        best: dict[int, tuple[float, int]] = {}
        known = _Recent(read)

        def compare(owner: int, leader: int) -> bool:
            if (owner, leader) not in similar:
                share = similarity(known.shingles(owner), known.shingles(leader))
                similar[owner, leader] = share >= threshold
                if share >= threshold:
                    best[owner] = max(best.get(owner, (0.0, 0)), (share, -leader))
            return similar[owner, leader]

        for band in range(_BANDS):
            for run in equal_runs(bands[first, band], owners[first]):
                leaders = [int(run[0])]
                for owner in map(int, run[1:]):
                    matches = [compare(owner, leader) for leader in leaders]
                    if not any(matches) and len(leaders) < _LEADERS:
                        leaders.append(owner)
        for owner in sorted(best):
            share, leader = best[owner]
            yield owner, -leader, share


class _Recent:
    """Shingles of the texts that were read last."""

    def __init__(self, read: Callable[[int], str], size: int = 256) -> None:
        self._read, self._size = read, size
        self._known: dict[int, np.ndarray] = {}

    def shingles(self, owner: int) -> np.ndarray:
        found = self._known.pop(owner, None)
        if found is None:
            found = shingles_of(self._read(owner))
            if len(self._known) >= self._size:
                self._known.pop(next(iter(self._known)))
        self._known[owner] = found
        return found


def _bands_of(shingles: np.ndarray) -> np.ndarray:
    """(_BANDS,) uint32."""
    least = np.full(_BANDS * _PER_BAND, np.iinfo(np.uint32).max, np.uint64)
    for begin in range(0, len(shingles), _AT_ONCE):
        values = shingles[begin : begin + _AT_ONCE] * _FACTORS + _TERMS
        least = np.minimum(least, (values >> np.uint64(32)).min(axis=1))
    rows = least.reshape(_BANDS, _PER_BAND)
    joined = np.zeros(_BANDS, np.uint64)
    for column in range(_PER_BAND):
        joined = joined * _FACTORS[0] + rows[:, column]
        joined ^= joined >> np.uint64(29)
    return (joined >> np.uint64(32)).astype(np.uint32)
