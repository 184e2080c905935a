"""What is encoded: texts, photos, clips and documents that depend on a seed only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["make_clip", "make_pdf", "make_photo", "make_photos", "make_texts", "save_photos"]

_SYLLABLES = "ba be bi bo bu da de di do du ka ke ki ko ku la le li lo lu ma me mi mo mu na".split()
_PHOTO_SIZES = ((640, 480), (480, 640), (800, 600), (1024, 768))


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


def make_photo(width: int, height: int, *, seed: int) -> Image.Image:
    """Blurred noise with grain: as a JPEG about as many bytes as a photo of that size."""
    random = np.random.default_rng(seed)
    rows, columns = max(2, height // 16), max(2, width // 16)
    small = Image.fromarray(random.integers(0, 256, (rows, columns, 3), dtype=np.uint8))
    large = small.resize((width, height), Image.Resampling.BICUBIC)
    grain = random.integers(-6, 7, (height, width, 3), dtype=np.int16)
    pixels = np.clip(np.asarray(large).astype(np.int16) + grain, 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def make_photos(count: int, *, side: int | None = None) -> list[Image.Image]:
    """Photos of four sizes, landscape and portrait; or squares of `side` pixels."""
    sizes = _PHOTO_SIZES if side is None else ((side, side),)
    return [make_photo(*sizes[number % len(sizes)], seed=number) for number in range(count)]


def save_photos(photos: Sequence[Image.Image], folder: Path) -> list[Path]:
    """Write them as JPEG files; returns the paths in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05d}.jpg" for number in range(len(photos))]
    for photo, path in zip(photos, paths, strict=True):
        photo.save(path, quality=90)
    return paths


def make_clip(path: Path, *, frames: int, keyframe_every: int, size: tuple[int, int]) -> Path:
    """H.264 at 25 frames a second: a window that wanders over a large photo."""
    import av

    width, height = size
    scene = np.asarray(make_photo(width + 512, height + 288, seed=0))
    with av.open(str(path), "w") as container:
        options = {"g": str(keyframe_every), "preset": "veryfast", "sc_threshold": "0"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            left = round(256 + 255 * np.sin(number / 40))
            top = round(144 + 143 * np.cos(number / 55))
            window = np.ascontiguousarray(scene[top : top + height, left : left + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window, format="rgb24")))
        container.mux(stream.encode())
    return path


def make_pdf(path: Path, pages: int) -> Path:
    """A4 pages of two columns of text, a chart of lines and bars, and a photo."""
    import io

    import pymupdf

    words = make_texts(pages, median_words=900, spread=0.0, seed=5)
    with pymupdf.open() as document:
        for number, text in enumerate(words):
            page = document.new_page(width=595, height=842)
            page.insert_text((50, 50), f"Page {number + 1} of a report", fontsize=18)
            middle = len(text) // 2
            for column, part in enumerate((text[:middle], text[middle:])):
                left = 50 + 255 * column
                page.insert_textbox((left, 70, left + 240, 540), part, fontsize=7)
            chart = page.new_shape()
            for bar in range(24):
                top = 800 - 200 * abs(np.sin(bar + number))
                chart.draw_rect((50 + 10 * bar, top, 58 + 10 * bar, 800))
                chart.draw_line((50 + 10 * bar, top - 8), (60 + 10 * bar, top))
                chart.finish(fill=(0.2, 0.4, 0.8), color=(0.1, 0.1, 0.1), width=0.5)
            chart.commit()
            photo = io.BytesIO()
            make_photo(640, 480, seed=number).save(photo, "JPEG", quality=90)
            page.insert_image((310, 580, 545, 800), stream=photo.getvalue())
        document.save(path)
    return path
