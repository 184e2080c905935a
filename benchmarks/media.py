"""The suites video, page and isolation: files to pixels of the model's size, without a model.

Every side gives the same frames or pages at the same size; what differs in the pixels is reported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.items import make_clip, make_pdf, make_photo
from benchmarks.measurement import Case, Run, Side, Start
from benchmarks.settings import Settings

__all__ = [
    "grey_levels",
    "isolation_cases",
    "mmembed_parts",
    "page_cases",
    "pymupdf_pages",
    "qwen_vl_utils_clip",
    "video_cases",
]

_AREA = 28 * 28  # pixels of a token
FRAME_TOKENS = (160, 180)
PAGE_TOKENS = (256, 1280)
PAGE_DPI = 200
CLIP_SIZE = (1280, 720)
_BATCH_PHOTOS = 32
# width, height of a JPEG -> how often one call opens it
_PHOTOS = {(512, 384): 60, (1024, 768): 40, (2048, 1536): 20, (4000, 3000): 10}


def video_cases(settings: Settings, scratch: Path) -> Iterator[Case]:
    """`items` are the frames of the long clip, which has 64 key frames by default."""
    long = settings.items or 64 * 48
    work = [
        # frames taken, frames of the clip, frames from one key frame to the next, sampling
        (64, long, 250, "uniform"),
        (64, long, 48, "uniform"),
        (64, long, 48, "keyframes"),
        (8, 100, 48, "uniform"),
    ]
    for taken, length, every, sampling in work:
        path = scratch / f"{length}-{every}.mp4"
        if not path.exists():
            make_clip(path, frames=length, keyframe_every=every, size=CLIP_SIZE)
        clip = {"kind": "video", "path": str(path), "num_frames": taken, "sampling": sampling}
        ours = {"parts": [clip], "tokens": FRAME_TOKENS, "threads": settings.threads}
        theirs = {"path": str(path), "num_frames": taken, "tokens": FRAME_TOKENS}
        sides = {"mmembed": Start("benchmarks.media:mmembed_parts", ours)}
        if "qwen-vl-utils" in settings.peers:
            sides["qwen-vl-utils"] = Start("benchmarks.media:qwen_vl_utils_clip", theirs)
        yield _case(
            settings,
            scratch,
            f"{taken} frames of {length:,}, a key frame every {every}"
            + (", ours key frames only" if sampling == "keyframes" else ""),
            sides,
            taken,
            "frames",
            # key frames are other frames
            compares=sampling == "uniform",
        )


def page_cases(settings: Settings, scratch: Path) -> Iterator[Case]:
    pages = settings.items or 40
    path = str(make_pdf(scratch / "report.pdf", pages))
    parts = [{"kind": "page", "path": path, "pages": str(n + 1)} for n in range(pages)]
    ours = {"parts": parts, "tokens": PAGE_TOKENS, "threads": settings.threads}
    theirs = {"path": path, "tokens": PAGE_TOKENS, "threads": settings.threads}
    sides = {"mmembed": Start("benchmarks.media:mmembed_parts", ours)}
    if "pymupdf" in settings.peers:
        sides["pymupdf"] = Start("benchmarks.media:pymupdf_pages", theirs)
    yield _case(settings, scratch, f"{pages} PDF pages", sides, pages, "pages", compares=True)


def isolation_cases(settings: Settings, scratch: Path) -> Iterator[Case]:
    """What opening media in a separate, killable process costs beside opening them in this one."""
    clip = make_clip(scratch / "clip.mp4", frames=60, keyframe_every=12, size=(640, 384))
    page = make_pdf(scratch / "page.pdf", 1)
    work: list[tuple[str, list[dict[str, Any]], int]] = []
    for (width, height), repeats in _PHOTOS.items():
        photo = _photo(scratch, width, height, seed=0)
        work.append((f"JPEG {width} x {height}", [photo], repeats))
    photos = [_photo(scratch, 1024, 768, seed=number) for number in range(_BATCH_PHOTOS)]
    work.append((f"{_BATCH_PHOTOS} JPEGs 1024 x 768 at once", photos, 2))
    work.append(("PDF page", [{"kind": "page", "path": str(page), "pages": "1"}], 20))
    video = {"kind": "video", "path": str(clip), "num_frames": 8}
    work.append(("MP4 640 x 384, 8 frames", [video], 20))
    for name, parts, repeats in work[: settings.items]:
        shared = {"parts": parts, "tokens": (4, 1024), "repeats": repeats, "threads": 1}
        target = "benchmarks.media:mmembed_parts"
        sides = {
            "in process": Start(target, {**shared, "isolate": False}),
            "isolated": Start(target, shared),
        }
        if len(parts) > 1:
            sides["isolated, 2 workers"] = Start(target, {**shared, "threads": 2})
        count = len(parts) * repeats
        yield _case(settings, scratch, name, sides, count, "files", compares=False)


def mmembed_parts(
    *,
    parts: Sequence[Mapping[str, Any]],
    tokens: tuple[int, int],
    save: str,
    threads: int | None = None,
    repeats: int = 1,
    isolate: bool = True,
) -> Side:
    from mmembed.inputs.media import MediaPolicy
    from mmembed.inputs.sandbox import MediaDecoder
    from mmembed.inputs.sizing import MediaBudget

    decoder = MediaDecoder(MediaPolicy(isolate=isolate), num_workers=threads or os.cpu_count() or 1)
    budget = MediaBudget(min_pixels=tokens[0] * _AREA, max_pixels=tokens[1] * _AREA)
    given = [_part(**part) for part in parts]

    def call() -> list[np.ndarray]:
        for _ in range(repeats):
            decoded = decoder.decode_many(given, [budget] * len(given))
        for outcome in decoded:
            if isinstance(outcome, Exception):
                raise outcome
        return [frame for outcome in decoded for frame in outcome.frames]

    return Side(call, call, lambda frames: _save(save, frames), decoder.close)


def qwen_vl_utils_clip(*, path: str, num_frames: int, tokens: tuple[int, int], save: str) -> Side:
    """Its default reader: torchcodec where installed, else decord."""
    from qwen_vl_utils import vision_process

    request = {
        "video": path,
        "nframes": num_frames,
        "min_pixels": tokens[0] * _AREA,
        "max_pixels": tokens[1] * _AREA,
    }

    def facts(clip: Any) -> Run:
        _save(save, clip.permute(0, 2, 3, 1).round().clamp(0, 255).byte().numpy())
        return {"reader": vision_process.get_video_reader_backend()}

    def call() -> Any:
        return vision_process.fetch_video(request)

    return Side(call, call, facts)


def pymupdf_pages(*, path: str, tokens: tuple[int, int], save: str, threads: int | None) -> Side:
    """Every page at 200 dpi, then resized to the grid; the pages shared out to the cores."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    import pymupdf

    with pymupdf.open(path) as document:
        count = document.page_count
    workers = min(threads or os.cpu_count() or 1, count)
    ranges = [range(first, count, workers) for first in range(workers)]
    pool = ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else None

    def call() -> list[np.ndarray]:
        shared = [path] * workers, ranges, [tokens] * workers
        drawn = list((pool.map if pool else map)(_draw_and_resize, *shared))
        return [drawn[number % workers][number // workers] for number in range(count)]

    def close() -> None:
        if pool:
            pool.shutdown()

    return Side(call, call, lambda pages: _save(save, pages), close)


def _draw_and_resize(path: str, numbers: range, tokens: tuple[int, int]) -> list[np.ndarray]:
    import pymupdf
    from PIL import Image

    from mmembed.inputs.sizing import smart_resize

    found = []
    with pymupdf.open(path) as document:
        for number in numbers:
            drawn = document[number].get_pixmap(dpi=PAGE_DPI)
            page = Image.frombytes("RGB", (drawn.width, drawn.height), drawn.samples)
            rows, columns = smart_resize(
                page.height,
                page.width,
                factor=28,
                min_pixels=tokens[0] * _AREA,
                max_pixels=tokens[1] * _AREA,
            )
            found.append(np.asarray(page.resize((columns, rows), Image.Resampling.BICUBIC)))
    return found


def _part(kind: str, path: str, **options: Any) -> Any:
    from mmembed.types import Image, Page, Video

    return {"image": Image, "video": Video, "page": Page}[kind](Path(path), **options)


def _photo(folder: Path, width: int, height: int, *, seed: int) -> dict[str, str]:
    path = folder / f"{width}-{seed}.jpg"
    if not path.exists():
        make_photo(width, height, seed=seed).save(path, quality=90)
    return {"kind": "image", "path": str(path)}


def _save(path: str, frames: Sequence[np.ndarray] | np.ndarray) -> Run:
    if len({frame.shape for frame in frames}) == 1:
        np.save(path, np.stack(list(frames)))
    return {}


def _case(
    settings: Settings,
    scratch: Path,
    name: str,
    sides: Mapping[str, Start],
    count: int,
    unit: str,
    *,
    compares: bool,
) -> Case:
    saved = {side: scratch / f"{number}.npy" for number, side in enumerate(sides)}
    starts = {
        side: Start(start.target, {**start.arguments, "save": str(saved[side])})
        for side, start in sides.items()
    }

    def facts(runs: Mapping[str, Sequence[Run]]) -> dict[str, Run]:
        ours, *others = (np.load(saved[side]) for side in runs)
        found = [{"grey_levels": grey_levels(ours, theirs)} for theirs in others]
        return dict(zip(list(runs)[1:], found, strict=True))

    return Case(name, starts, count, unit, facts=facts if compares else lambda runs: {})


def grey_levels(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of equal frames, of 255. Raises ValueError for unequal shapes."""
    if a.shape != b.shape:
        raise ValueError(f"the sides gave pictures of shapes {a.shape} and {b.shape}")
    return float(np.abs(a.astype(np.int16) - b).mean())
