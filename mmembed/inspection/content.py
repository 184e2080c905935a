"""What of an item can be compared: bytes, words in common, how a picture looks.

Exact: 64 bits of the sha256 of the content (`store.content`). Nearly equal texts: their words,
without case and punctuation, and the 64-bit hashes of runs of words. Nearly equal pictures: pHash,
the signs of the low frequencies of the brightness. Chosen over dHash, which compares neighbouring
pixels: on flat areas, such as the paper of a page or a white background, noise decides its bits,
so recompressed copies drift apart and unlike pages share whole blocks. pHash sees no colour; mean
colours stand beside it, else a red and a blue heart would be one picture.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from mmembed.store.content import Digest, content_key, hash_file
from mmembed.types import MultimodalInput, Text

__all__ = [
    "COLOURS",
    "PictureSignature",
    "hash_of_text",
    "item_hash",
    "item_text",
    "ngram_hashes",
    "perceptual_hash",
    "picture_signature",
    "word_hashes",
    "words_of",
]

# Han and Kana are written without spaces: each letter is a word. Sentence punctuation is none.
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_PUNCTUATION = r".,;:!?'\"()\[\]{}\u2018\u2019\u201c\u201d\u2026\u2013\u2014\-_*\u3001\u3002"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+|[^\w\s{_PUNCTUATION}]")

_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

_SIDE, _LOW = 32, 8  # the picture is shrunk to 32 x 32; its 8 x 8 lowest frequencies are kept
_CELLS = 2
COLOURS = 3 * _CELLS * _CELLS  # bytes of the mean colours: RGB of 2 x 2 cells
_FLAT = 1.0  # amplitude in levels of brightness; below it a frequency is noise


def hash_of_text(text: str) -> int:
    """64 bits of a text."""
    data = text.encode("utf-8", errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def item_hash(
    item: MultimodalInput, *, with_instruction: bool = False, digest: Digest = hash_file
) -> int:
    """64 bits of what an item holds, as query and document alike.

    Two different items of a million share one with probability 3e-8, of 100 million 3e-4.

    Raises:
        InputError: as `content_key`: a file that cannot be read, an address.
    """
    if not with_instruction and item.instruction is not None:
        item = replace(item, instruction=None)
    if len(item.parts) == 1 and isinstance(item.parts[0], Text) and item.instruction is None:
        return hash_of_text(item.parts[0].text)
    return int(content_key(item, "document", digest=digest)[:16], 16)


def item_text(item: MultimodalInput) -> str:
    return "\n".join(part.text for part in item.parts if isinstance(part, Text))


def words_of(text: str) -> list[str]:
    """The words of a text for comparison; what has none (`...`) is one word as it stands."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = _WORD.findall(plain)
    return words or ([plain.strip()] if plain.strip() else [])


def word_hashes(words: list[str]) -> np.ndarray:
    """(n,) uint64."""
    crcs = [zlib.crc32(word.encode("utf-8", errors="surrogatepass")) for word in words]
    return _mixed(np.array(crcs, dtype=np.uint64))


def ngram_hashes(hashes: np.ndarray, longest: int) -> Iterator[tuple[int, np.ndarray]]:
    """For n = 1, 2, ... `longest`: (n, hashes of all runs of n words, from their first words)."""
    runs = np.zeros(len(hashes), np.uint64)
    for length in range(1, min(longest, len(hashes)) + 1):
        kept = len(hashes) - length + 1
        runs = runs[:kept] * _BASE + hashes[length - 1 :]
        yield length, _mixed(runs)


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of the result depends on every bit of the value."""
    values = values + _BASE
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True)
class PictureSignature:
    """`hash`: 63 bits of `perceptual_hash`; `colours`: `COLOURS` bytes."""

    hash: int
    colours: bytes


def perceptual_hash(picture: np.ndarray) -> int:
    """pHash of a uint8 (H, W, 3) picture: 63 bits, equal or nearly so for pictures that look alike.

    After C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010.
    """
    return picture_signature(picture).hash


def picture_signature(picture: np.ndarray) -> PictureSignature:
    from PIL import Image

    height, width = picture.shape[:2]
    # a first, cheap reduction: at least two source pixels for each that is left
    factor = max(1, min(height, width) // (4 * _SIDE))
    image = Image.fromarray(picture)
    image = image.reduce(factor) if factor > 1 else image
    small = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR), np.float64)
    brightness = small @ np.array([0.299, 0.587, 0.114])
    low = (_cosines() @ brightness @ _cosines().T).ravel()[1:]  # without the mean
    low[np.abs(low) * 2 / _SIDE < _FLAT] = 0.0
    bits = low > np.median(low)
    cells = small.reshape(_CELLS, _SIDE // _CELLS, _CELLS, _SIDE // _CELLS, 3).mean(axis=(1, 3))
    return PictureSignature(
        int.from_bytes(np.packbits(bits).tobytes(), "big"),
        np.round(cells).astype(np.uint8).tobytes(),
    )


@lru_cache(maxsize=1)
def _cosines() -> np.ndarray:
    """(_LOW, _SIDE): the first rows of the orthonormal DCT-II."""
    frequency, place = np.arange(_LOW)[:, None], np.arange(_SIDE)[None, :]
    rows = np.cos(np.pi * frequency * (2 * place + 1) / (2 * _SIDE)) * np.sqrt(2 / _SIDE)
    rows[0] /= np.sqrt(2)
    return rows
