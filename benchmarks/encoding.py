"""The suites text, image, page (through a model) and growth: what is encoded and what is reported.

The reference of 1 - cosine is plain transformers in float32, over a sample of the items.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.flops import peak_tflops
from benchmarks.items import make_pdf, make_photos, make_texts, save_photos
from benchmarks.machine import gpu_name
from benchmarks.measurement import Case, Run, Start
from benchmarks.peers import PEERS, ItemKind, sample
from benchmarks.process import InThisProcess
from benchmarks.settings import Settings, model_folder

__all__ = [
    "growth_cases",
    "growth_notes",
    "image_cases",
    "largest_difference",
    "page_encode_cases",
    "text_cases",
    "utilisation",
]

OURS = "mmembed"
# The spread at which a median of 40 tokens has its 99th percentile at 1,000.
LONG_TAIL = 1.4
PAGE_TOKENS = (256, 1280)
PLANNED_ROWS = 10_000_000


def text_cases(settings: Settings, scratch: Path) -> Iterator[Case]:
    tail = LONG_TAIL if settings.length_spread is None else settings.length_spread
    texts = make_texts(settings.items or 300, spread=tail)
    folder, about = model_folder(scratch, settings.model or "tiny")
    yield _case(
        settings,
        scratch,
        folder,
        name=f"{len(texts):,} texts",
        items=texts,
        kind="text",
        about={**about, "length_spread": tail},
    )


def image_cases(settings: Settings, scratch: Path) -> Iterator[Case]:
    photos = make_photos(settings.items or 64, side=settings.image_side)
    paths = [str(path) for path in save_photos(photos, scratch / "photos")]
    folder, about = model_folder(
        scratch, settings.model or "tiny", image_tokens=settings.image_tokens
    )
    from_file = settings.images_from == "file" or settings.part == "preprocessing"
    yield _case(
        settings,
        scratch,
        folder,
        name=f"{len(paths):,} {'JPEG files' if from_file else 'pictures in memory'}, at most "
        f"{settings.image_tokens[1]:,} tokens"
        + (", preprocessing" if settings.part == "preprocessing" else "")
        + (", ours scaled" if settings.scaled_jpeg else ""),
        items=paths,
        kind="file" if from_file else "memory",
        about=about,
    )


def page_encode_cases(settings: Settings, scratch: Path) -> Iterator[Case]:
    """No 1 - cosine: the peers draw a page at another resolution first."""
    pages = settings.items or 20
    path = make_pdf(scratch / "report.pdf", pages)
    folder, about = model_folder(scratch, settings.model or "tiny", image_tokens=PAGE_TOKENS)
    yield _case(
        settings,
        scratch,
        folder,
        name=f"{pages} PDF pages, at most {PAGE_TOKENS[1]:,} tokens, encoded",
        items=[(str(path), number + 1) for number in range(pages)],
        kind="page",
        about=about,
    )


def growth_cases(settings: Settings, scratch: Path) -> Iterator[Case]:
    """Ours alone, over ever more texts of equal lengths in distribution."""
    folder, about = model_folder(scratch, settings.model or "micro")
    spread = 0.6 if settings.length_spread is None else settings.length_spread
    for size in settings.sizes or (1_000, 10_000, 100_000):
        texts = make_texts(size, median_words=8, spread=spread, seed=size)
        yield _case(
            settings,
            scratch,
            folder,
            name=f"{size:,} texts",
            items=texts,
            kind="text",
            about=about,
        )


def growth_notes(record: Mapping[str, Any]) -> list[str]:
    """What the largest two sizes say about ten million rows on this machine."""
    results = record["results"]
    if len(results) < 2:
        return []
    *_, one, two = (
        (result["count"], *(_middle(result["sides"][OURS], m) for m in ("seconds", "peak_mib")))
        for result in results
    )
    more = two[0] - one[0]
    per_row = (two[1] - one[1]) / more
    hours = per_row * PLANNED_ROWS / 3600
    dimensions = results[-1]["model"]["hidden_size"]
    gigabytes = dimensions * 4 * PLANNED_ROWS / 1e9
    kib = (two[2] - one[2]) * 1024 / more
    vectors_kib = dimensions * 4 / 1024
    return [
        f"From {one[0]:,} to {two[0]:,} rows: {per_row * 1e3:.3g} ms and {kib:.2g} KiB a row, of "
        f"which {vectors_kib:.2g} KiB are its vector.",
        f"{PLANNED_ROWS:,} rows: {hours:.3g} hours of one process and {gigabytes:.3g} GB of "
        "float32 vectors, if rows stay as long, this model and this machine stay, and time stays "
        "linear as measured; W processes on as many such machines take a W-th. Encoded in shards, "
        "memory is that of one shard, whatever their number.",
    ]


def _case(
    settings: Settings,
    scratch: Path,
    folder: Path,
    *,
    name: str,
    items: Sequence[Any],
    kind: ItemKind,
    about: dict[str, Any],
) -> Case:
    work = {"folder": str(folder), "listed": _listed(items, scratch / "items.json"), "kind": kind}
    preprocessing = settings.part == "preprocessing" and kind != "page"
    common = {
        **work,
        "dtype": settings.dtype,
        "device": settings.device,
        "threads": settings.threads,
        "preprocessing": preprocessing,
        "scaled_jpeg": settings.scaled_jpeg,
    }
    peers = {peer: PEERS[peer] for peer in settings.peers if peer in PEERS}
    targets = {OURS: "benchmarks.peers:mmembed", **peers}
    saved = {side: scratch / f"{side}.npy" for side in targets}
    sizes = about["model"] if settings.device != "cpu" else None
    sides = {
        side: Start(target, {**common, "save": str(saved[side])})
        for side, target in targets.items()
    }
    if sizes is not None and not preprocessing:
        sides[OURS] = Start(targets[OURS], {**sides[OURS].arguments, "sizes": sizes})

    def facts(runs: Mapping[str, Sequence[Run]]) -> dict[str, Run]:
        found: dict[str, Run] = {side: {} for side in runs}
        if peers and not preprocessing and kind != "page":
            listed = _listed(sample(items), scratch / "sample.json")
            expected = _reference({**work, "listed": listed}, settings.device, scratch)
            for side in runs:
                vectors = np.array(sample(np.load(saved[side])))
                found[side]["max_1_minus_cos"] = largest_difference(vectors, expected)
        for side, reached in utilisation(settings, runs).items():
            found[side]["mfu"] = reached
        return found

    unit = {"text": "texts", "page": "pages"}.get(kind, "images")
    return Case(name, sides, len(items), unit, facts=facts, about=about)


def _reference(work: Mapping[str, Any], device: str, scratch: Path) -> np.ndarray:
    """Vectors of plain transformers in float32."""
    path = scratch / "reference.npy"
    InThisProcess(
        Start(PEERS["transformers"], {**work, "device": device, "save": str(path)})
    ).measure()
    return np.asarray(np.load(path))


def utilisation(
    settings: Settings, runs: Mapping[str, Sequence[Run]], *, passes: int = 1
) -> dict[str, float]:
    """MFU of each side, where ours has counted operations: `passes` forward passes of them."""
    counted = next(iter(runs.values()))[0].get("tflop")
    if counted is None:
        return {}
    peak = settings.peak_tflops or peak_tflops(gpu_name(settings.device))
    return {side: passes * counted / _middle(done, "seconds") / peak for side, done in runs.items()}


def _middle(runs: Sequence[Run], name: str) -> float:
    return median(run[name] or 0.0 for run in runs)


def _listed(items: Sequence[Any], path: Path) -> str:
    path.write_text(json.dumps(list(items)), encoding="utf-8")
    return str(path)


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest 1 - cosine between rows of the same number."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float((1 - (left * right).sum(axis=1) / norms).max())
