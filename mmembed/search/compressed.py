"""Small codes of vectors in memory; the few best by code are compared by their full vectors.

    full vectors (memory-mapped) -> prefix -> int8 | binary codes -> candidates -> exact ranking

An index asks for them by its setting `coarse`, e.g. `256:int8`: the first 256 dimensions (of
models trained for it, arXiv 2205.13147) in one byte each. `binary` keeps the signs, eight to a
byte. Half a million vectors of 1,024 dimensions are 2 GB on disk and 128 MB as `256:int8`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from mmembed.errors import ConfigError

__all__ = ["Coarse", "CoarseCodes", "parse_coarse"]

_OVERSAMPLE = {"int8": 4, "binary": 16}
_BLOCK_ROWS = 16_384


@dataclass(frozen=True)
class Coarse:
    """Which codes, and how many candidates they give for each result that is wanted.

    Attributes:
        dimensions: how many of the vector's first dimensions; None for all.
    """

    dimensions: int | None
    precision: str
    oversample: int

    def __str__(self) -> str:
        first = "" if self.dimensions is None else f"{self.dimensions}:"
        return f"{first}{self.precision}:{self.oversample}"

    def oversampled(self, factor: int) -> Coarse:
        return replace(self, oversample=self.oversample * factor)


def parse_coarse(text: str, dimension: int) -> Coarse:
    """`[DIMENSIONS:]int8|binary[:OVERSAMPLE]`.

    Args:
        dimension: of the full vectors.

    Raises:
        ConfigError: another form, or numbers that make no sense.
    """
    words = str(text).split(":")
    dimensions = int(words.pop(0)) if words[0].isdecimal() else None
    precision = words.pop(0) if words else ""
    oversample = words.pop(0) if words else str(_OVERSAMPLE.get(precision, 0))
    is_known = precision in _OVERSAMPLE and oversample.isdecimal() and not words
    taken = dimension if dimensions is None else dimensions
    if not is_known or int(oversample) < 1 or not 1 <= taken <= dimension:
        raise ConfigError(
            f"coarse is {text!r}; write [DIMENSIONS:]int8 or [DIMENSIONS:]binary, perhaps with "
            f":OVERSAMPLE behind it, e.g. 256:int8 or binary:20; this index has {dimension} "
            "dimensions"
        )
    return Coarse(dimensions, precision, int(oversample))


class CoarseCodes:
    """The codes of an index's rows, (N, bytes) in the order of their numbers.

    Args:
        blocks: (row numbers (n,), vectors (n, D)); every number below `count` once.
    """

    def __init__(
        self, coarse: Coarse, count: int, blocks: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        self.coarse = coarse
        self._codes = np.empty((0, 0), dtype=np.int8)
        for numbers, vectors in blocks:
            block = self._encode(vectors)
            if not self._codes.size:
                self._codes = np.empty((count, block.shape[1]), dtype=block.dtype)
            self._codes[numbers] = block

    @property
    def nbytes(self) -> int:
        return self._codes.nbytes

    def candidates(self, query: np.ndarray, k: int, wanted: np.ndarray | None = None) -> np.ndarray:
        """Sorted numbers of the rows that may be among the k best of a query (D,).

        Args:
            wanted: (N,) bool, which rows may be found.
        """
        numbers = np.arange(len(self._codes)) if wanted is None else np.flatnonzero(wanted)
        count = k * self.coarse.oversample
        if len(numbers) <= count:
            return numbers
        scores = self._scores(self._prefix(query[None])[0], numbers)
        place = len(scores) - count
        # with all that are as good as the last one, so that equal rows are treated alike
        return numbers[scores >= np.partition(scores, place)[place]]

    def _prefix(self, vectors: np.ndarray) -> np.ndarray:
        """Of unit length: a short prefix of one row must not count less than a long one."""
        if self.coarse.dimensions is None:
            return np.asarray(vectors, dtype=np.float32)
        prefix = np.asarray(vectors[:, : self.coarse.dimensions], dtype=np.float32)
        return prefix / np.maximum(np.linalg.norm(prefix, axis=1, keepdims=True), 1e-12)

    def _encode(self, vectors: np.ndarray) -> np.ndarray:
        from mmembed.encoder.head import quantize  # with torch, which other indexes do without

        prefix = self._prefix(vectors)
        if self.coarse.precision == "binary":
            return quantize(prefix, "ubinary")
        return quantize(prefix, "int8", step=_step(prefix.shape[1]))

    def _scores(self, query: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Inner products of the query with codes, up to a factor."""
        if self.coarse.precision == "binary":
            # all that the eight signs of a byte can add to a score, for each byte of a code
            padded = np.zeros(8 * self._codes.shape[1], dtype=np.float32)
            padded[: len(query)] = query
            signs = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) * 2.0 - 1
            sums = (padded.reshape(-1, 8) @ signs.T).astype(np.float32)  # (bytes, 256)
        scores = np.empty(len(numbers), dtype=np.float32)
        for start in range(0, len(numbers), _BLOCK_ROWS):
            codes = self._codes[numbers[start : start + _BLOCK_ROWS]]
            if self.coarse.precision == "binary":
                block = sums[np.arange(codes.shape[1]), codes].sum(axis=1)
            else:
                block = codes.astype(np.float32) @ query
            scores[start : start + _BLOCK_ROWS] = block
        return scores


def _step(dimensions: int) -> float:
    """What one unit of an int8 code stands for: 127 are twelve times the mean size of a unit
    vector's components, whatever the data; larger ones are cut."""
    return float(min(1.0, 12 / np.sqrt(dimensions)) / 127)
