"""What is encoded: texts and pictures that depend on a seed only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["make_pictures", "make_texts", "save_pictures"]

_SYLLABLES = "ba be bi bo bu da de di do du ka ke ki ko ku la le li lo lu ma me mi mo mu na".split()


def make_texts(
    count: int, *, median_words: float = 38, spread: float = 0.6, seed: int = 0
) -> list[str]:
    """Texts whose lengths are log-normal, as lengths of real passages are; at most 1,000 words.

    `spread` is the standard deviation of the logarithm: at 0.6 one text in a hundred is four times
    as long as the median, at 1.4 twenty-five times.

    Words follow Zipf's law over 2,000 made-up ones, the same for every seed; a tokenizer trained on
    other texts of this function needs about 1.05 tokens for a word.
    """
    random = np.random.default_rng(1)
    words = ["".join(random.choice(_SYLLABLES, size)) for size in random.integers(1, 5, 2000)]
    random = np.random.default_rng((2, seed))
    share = 1 / np.arange(1, len(words) + 1)
    share /= share.sum()
    lengths = np.exp(random.normal(np.log(median_words), spread, count)).round().clip(1, 1000)
    return [" ".join(random.choice(words, int(n), p=share)) + "." for n in lengths]


def make_pictures(count: int, *, seed: int = 0) -> list[Image.Image]:
    """RGB pictures of coloured blobs: three of four 64 x 64, the fourth 256 x 256."""
    random = np.random.default_rng(seed)
    pictures = []
    for number in range(count):
        side = 256 if number % 4 == 3 else 64
        rows, columns = np.mgrid[0:side, 0:side] / side
        pixels = np.empty((side, side, 3))
        pixels[:] = random.integers(0, 256, 3)
        for _ in range(6):
            row, column, radius = random.random(3) * (1, 1, 0.4)
            pixels[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = random.integers(
                0, 256, 3
            )
        pixels += random.normal(0, 8, pixels.shape)  # noise: files of a realistic size
        pictures.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    return pictures


def save_pictures(pictures: list[Image.Image], folder: Path) -> list[Path]:
    """Write them as PNG and JPEG in turn; returns the paths in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, picture in enumerate(pictures):
        path = folder / f"{number:05d}.{'png' if number % 2 else 'jpg'}"
        picture.save(path)
        paths.append(path)
    return paths
