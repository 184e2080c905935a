"""The suite index: rows go in, are searched with and without filters, and what that takes on disk.

Vectors lie in 2,000 clusters of a space of 96 dimensions, with noise, as those of a model do; the
queries are drawn alike and are not among them. The engines are the numpy index, LanceDB as it
comes (exact at this size) and LanceDB forced to its approximate index, also under filters.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.measurement import Case, Run, Side, Start
from benchmarks.settings import Settings

__all__ = ["PEERS", "index_cases", "index_side"]

APPROXIMATE = "lance IVF_HNSW_SQ"
PEERS = ("lance", APPROXIMATE)
_DIMENSION = 1024
_BATCH = 2000
_QUERIES = 100
_K = 10
_SPACE: dict[str, Any] = {"fingerprint": "0" * 64, "dimension": _DIMENSION}
# rows are pages 1 to 100 of PDFs
_FILTERS: dict[str, int | None] = {"every row": None, "10 % of rows": 10, "1 % of rows": 1}


def index_cases(settings: Settings, scratch: Path) -> Iterator[Case]:
    """Ingest, optimize, and search under each filter."""
    for count in settings.sizes or (100_000,):
        folder = scratch / str(count)
        folder.mkdir()
        _write_vectors(folder, count)

        def sides(work: str, names: Sequence[str], folder: Path = folder) -> dict[str, Start]:
            chosen = [name for name in names if name in ("numpy", *settings.peers)]
            arguments = {"folder": str(folder), "work": work}
            return {
                name: Start("benchmarks.indexes:index_side", {"name": name, **arguments})
                for name in chosen
            }

        def case(work: str, names: Sequence[str], number: int, unit: str) -> Case:
            name = f"{count:,} rows, {work}"  # noqa: B023
            fresh = unit == "rows"
            return Case(name, sides(work, names), number, unit, fresh=fresh, facts=_middle)

        yield case("ingest", ("numpy", "lance"), count, "rows")
        yield case("optimize", PEERS, count, "rows")
        for work in _FILTERS:
            yield case(work, ("numpy", *PEERS), _QUERIES, "queries")


def index_side(*, name: str, folder: str, work: str) -> Side:
    """One engine; the folder of its index is that which the case before has left."""
    place = Path(folder)
    if work == "ingest":
        return Side(
            lambda: _ingest(_emptied(place, name), name, np.load(place / "vectors.npy", "r")),
            lambda: _ingest(_emptied(place, "small"), name, np.load(place / "queries.npy")),
            lambda index: {"disk_mb": index.stats().bytes_on_disk / 1e6},
        )
    if work == "optimize":
        raw = place / "as ingested"
        if not raw.exists():
            shutil.move(place / "lance", raw)
        mine = shutil.copytree(raw, _emptied(place, name))
        index = _opened(mine, name)
        return Side(index.optimize, lambda: None, lambda report: _optimized(index, report))
    index = _opened(place / name, name)
    queries = np.load(place / "queries.npy")
    truth = np.load(place / f"truth-{_FILTERS[work]}.npy")
    where = _filter(_FILTERS[work])

    def call() -> tuple[list[float], list[set[str]]]:
        seconds, found = [], []
        for query in queries:
            start = time.perf_counter()
            matches = index.search(query, _K, where=where)[0]
            seconds.append(time.perf_counter() - start)
            found.append({match.row.id for match in matches})
        return seconds, found

    def facts(result: tuple[list[float], list[set[str]]]) -> Run:
        seconds, found = result
        hits = sum(
            len(names & set(map(_name, true))) for names, true in zip(found, truth, strict=True)
        )
        p50, p95 = np.percentile(seconds, [50, 95]) * 1000
        return {"p50_ms": p50, "p95_ms": p95, "recall_at_10": hits / truth.size}

    return Side(call, call, facts, index.close)


def _opened(folder: Path, name: str, **space: Any) -> Any:
    if name == "numpy":
        from mmembed.search.exact_index import ExactIndex

        return ExactIndex(folder, **space)
    from mmembed.search.lance_index import LanceIndex

    forced = {"exact_below": 1, "exact_filtered_below": 0} if name == APPROXIMATE else {}
    return LanceIndex(folder, keep_seconds=0, **forced, **space)  # type: ignore[arg-type]


def _ingest(folder: Path, name: str, vectors: np.ndarray) -> Any:
    from mmembed.search.rows import Row

    index = _opened(folder, name, **_SPACE)
    for start in range(0, len(vectors), _BATCH):
        batch = np.asarray(vectors[start : start + _BATCH])
        rows = [
            Row(
                _name(n),
                f"/library/{n // 100:06d}.pdf",
                "pdf",
                key=f"{n:064x}",
                page=n % 100 + 1,
            )
            for n in range(start, start + len(batch))
        ]
        index.upsert(rows, batch)
        index.commit()
    return index


def _optimized(index: Any, report: Any) -> Run:
    return {"disk_mb": index.stats().bytes_on_disk / 1e6, "recall_at_10": report.recall}


def _middle(sides: Mapping[str, Sequence[Run]]) -> dict[str, Run]:
    """The median of each fact over the rounds."""
    names = ("p50_ms", "p95_ms", "recall_at_10", "disk_mb")
    return {
        side: {name: median(values) for name in names if (values := _numbers(runs, name))}
        for side, runs in sides.items()
    }


def _numbers(runs: Sequence[Run], name: str) -> list[float]:
    return [run[name] for run in runs if run.get(name) is not None]


def _filter(last_page: int | None) -> Any:
    from mmembed.search.filters import row_filter

    return None if last_page is None else row_filter(pages=(1, last_page))


def _write_vectors(folder: Path, count: int) -> None:
    """Vectors, queries, and the ten nearest rows of each query under each filter."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((2000, 96), dtype=np.float32)
    lift = rng.standard_normal((96, _DIMENSION), dtype=np.float32) / np.sqrt(96)

    def draw(number: int) -> np.ndarray:
        point = latent[rng.integers(len(latent), size=number)]
        point = point + 0.5 * rng.standard_normal(point.shape, dtype=np.float32)
        vectors = point @ lift + 0.1 * rng.standard_normal((number, _DIMENSION), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    vectors = np.concatenate([draw(min(_BATCH, count - s)) for s in range(0, count, _BATCH)])
    queries = draw(_QUERIES)
    scores = queries @ vectors.T
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", queries)
    for last_page in _FILTERS.values():
        is_left = np.arange(count) % 100 < (last_page or 100)
        truth = np.argsort(-np.where(is_left, scores, -2), axis=1)[:, :_K]
        np.save(folder / f"truth-{last_page}.npy", truth)


def _emptied(folder: Path, name: str) -> Path:
    shutil.rmtree(folder / name, ignore_errors=True)
    return folder / name


def _name(number: int) -> str:
    return f"/library/{number // 100:06d}.pdf#page={number % 100 + 1}"
