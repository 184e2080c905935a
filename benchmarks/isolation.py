"""What opening media in a separate, killable process costs beside opening them in this one.

Both decode the same files to the same pixel budget, in turn. Ratios: isolated / in process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image as Pillow

from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import Image, Page, Part, Video

__all__ = ["compare_isolation", "isolation_markdown"]

_BUDGET = MediaBudget(min_pixels=4 * 784, max_pixels=1024 * 784)
_PHOTOS = {(512, 384): 60, (1024, 768): 40, (2048, 1536): 20, (4000, 3000): 10}
_BATCH = 32


def compare_isolation(
    folder: Path, *, rounds: int, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Seconds of every pair. `rounds` multiplies the number of pairs of each case."""
    results = []
    inside = MediaDecoder(MediaPolicy(isolate=False))
    for num_workers in (1, 2):
        outside = MediaDecoder(num_workers=num_workers)
        for name, parts, pairs in _cases(folder):
            if num_workers == 2 and len(parts) == 1:
                continue
            for decoder in (inside, outside):
                _seconds(decoder, parts)
            seconds: dict[str, list[float]] = {"in_process": [], "isolated": []}
            for number in range(pairs * rounds):
                sides = [("in_process", inside), ("isolated", outside)]
                for side, decoder in sides if number % 2 == 0 else sides[::-1]:
                    seconds[side].append(_seconds(decoder, parts))
            results.append({"case": name, "workers": num_workers, **seconds})
            progress(f"{name}, {num_workers} worker{'s' * (num_workers > 1)}")
    return results


def isolation_markdown(results: Sequence[dict[str, Any]]) -> str:
    """A table: medians, and the ratio with the 5th to 95th percentile of the pairs."""
    lines = ["| | workers | in process, ms | isolated, ms | ratio |", "|---|---|---|---|---|"]
    for result in results:
        inside, outside = np.array(result["in_process"]), np.array(result["isolated"])
        low, high = np.quantile(outside / inside, [0.05, 0.95])
        middle = np.median(outside) / np.median(inside)
        lines.append(
            f"| {result['case']} | {result['workers']} | {np.median(inside) * 1e3:.3g} | "
            f"{np.median(outside) * 1e3:.3g} | {middle:.2f} ({low:.2f} to {high:.2f}) |"
        )
    return "\n".join(lines)


def _seconds(decoder: MediaDecoder, parts: Sequence[Part]) -> float:
    begin = perf_counter()
    decoder.decode_many(parts, [_BUDGET] * len(parts))
    return perf_counter() - begin


def _cases(folder: Path) -> list[tuple[str, list[Part], int]]:
    """(name, parts, pairs in one round)."""
    cases: list[tuple[str, list[Part], int]] = []
    for (width, height), pairs in _PHOTOS.items():
        path = _photo(folder, width, height, seed=0)
        cases.append((f"JPEG {width} x {height}", [Image(path)], pairs))
    batch: list[Part] = [Image(_photo(folder, 1024, 768, seed=n)) for n in range(_BATCH)]
    cases.append((f"{_BATCH} JPEGs 1024 x 768", batch, 5))
    cases.append(("PDF page", [Page(_pdf(folder), pages="1")], 40))
    cases.append(("MP4 640 x 384, 8 frames", [Video(_video(folder), num_frames=8)], 20))
    return cases


def _photo(folder: Path, width: int, height: int, *, seed: int) -> Path:
    """Blurred noise with grain: about as many bytes as a photo of that size."""
    path = folder / f"{width}-{seed}.jpg"
    if not path.exists():
        random = np.random.default_rng(seed)
        small = random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        large = Pillow.fromarray(small).resize((width, height), Pillow.Resampling.BICUBIC)
        grain = random.integers(-6, 7, (height, width, 3), dtype=np.int16)
        pixels = np.clip(np.asarray(large).astype(np.int16) + grain, 0, 255).astype(np.uint8)
        Pillow.fromarray(pixels).save(path, quality=90)
    return path


def _pdf(folder: Path) -> Path:
    import pymupdf

    path = folder / "page.pdf"
    with pymupdf.open() as document:
        page = document.new_page()
        for line in range(40):
            page.insert_text((50, 60 + 18 * line), f"Line {line} of a page of plain text.")
        document.save(path)
    return path


def _video(folder: Path) -> Path:
    import av

    path = folder / "clip.mp4"
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 640, 384, "yuv420p"
        for _ in range(60):
            small = Pillow.fromarray(random.integers(0, 256, (12, 20, 3), dtype=np.uint8))
            frame = np.asarray(small.resize((640, 384), Pillow.Resampling.BICUBIC))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
