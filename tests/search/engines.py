"""The engines that `test_index_conformance` opens, and the thousand rows that it searches."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mmembed.search.exact_index import ExactIndex
from mmembed.search.filters import Filter
from mmembed.search.index import Index
from mmembed.search.rows import KINDS, Row

DIMENSION = 16
FINGERPRINT = "a" * 64
COUNT = 1000
DAY = 86_400 * 10**9


def numpy_index(folder: Path, **space: object) -> Index:
    return ExactIndex(folder, **space)  # type: ignore[arg-type]


def lance_index(folder: Path, **space: object) -> Index:
    pytest.importorskip("lancedb")
    from mmembed.search.lance_index import LanceIndex

    return LanceIndex(str(folder), **space)  # type: ignore[arg-type]


ENGINES = {"numpy": numpy_index, "lance": lance_index}


@contextlib.contextmanager
def engine(name: str, folder: Path) -> Iterator[Callable[..., Index]]:
    """What opens the index of a test; that of `qdrant` talks HTTP."""
    if name in ENGINES:
        yield functools.partial(ENGINES[name], folder)
        return
    pytest.importorskip("qdrant_client")
    from mmembed.search.qdrant_index import QdrantIndex
    from tests.search.qdrant_server import qdrant_server

    with qdrant_server() as server:
        yield functools.partial(QdrantIndex, f"{server.url}/library")


NAMES = (*ENGINES, "qdrant")


class Place:
    """Where one test keeps its index; opening it again closes what was open."""

    def __init__(self, make: Callable[..., Index]) -> None:
        self._make = make
        self._opened: Index | None = None

    def open(self, fingerprint: str | None = None, dimension: int | None = None) -> Index:
        self.close()
        self._opened = self._make(fingerprint=fingerprint, dimension=dimension)
        return self._opened

    def new(self) -> Index:
        return self.open(FINGERPRINT, DIMENSION)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None


def unit(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def row(number: int, **values: object) -> Row:
    name = f"/photos/{number:04d}.png"
    known = {"id": name, "path": name, "kind": "image", "key": f"{number:064x}"}
    return Row(**{**known, **values})  # type: ignore[arg-type]


def made_up_rows() -> list[Row]:
    """Of all kinds, in nested folders, some fields absent."""
    rng = np.random.default_rng(7)
    words = ("apple", "pear", "plum", "fig", "quince")
    folders = ("/", "/a/", "/a/b/", "/a b/", "/ab/", "/a/../c/", "/A/", "/a_b/", "/a%/")
    rows = []
    for number in range(COUNT):
        kind = KINDS[number % 4]
        suffix = {"text": "md", "image": "png", "video": "mp4", "pdf": "PDF"}[kind]
        path = f"{folders[rng.integers(len(folders))]}{number:04d}.{suffix}"
        values: dict[str, object] = {"id": path, "path": path, "kind": kind}
        values["mtime_ns"] = int(rng.integers(0, 400)) * DAY
        if kind == "pdf":
            values |= {"page": int(rng.integers(1, 6)), "id": f"{path}#page=1"}
        if kind == "video":
            values |= {"start_seconds": 0.0, "duration_seconds": float(rng.integers(1, 9)) / 2}
        if kind in ("text", "pdf"):
            values["text"] = " ".join(words[n] for n in rng.integers(0, 5, 1 + number % 7))
        rows.append(row(number, **values))
    return rows


VECTORS = unit(COUNT, seed=1)
VECTORS[200:260] = VECTORS[5]  # different rows with one vector
ROWS = made_up_rows()


def brute_force(query: np.ndarray, k: int, where: Filter | None = None) -> list[tuple[str, float]]:
    scores = [
        (-float((vector.astype(np.float64) * query.astype(np.float64)).sum()), each.id)
        for each, vector in zip(ROWS, VECTORS, strict=True)
        if where is None or where.matches(each)
    ]
    return [(name, -score) for score, name in sorted(scores)[:k]]


def found(index: Index, query: np.ndarray, k: int, **options: object) -> list[tuple[str, float]]:
    return [(match.row.id, match.score) for match in index.search(query, k, **options)[0]]  # type: ignore[arg-type]


def same(answer: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    assert [name for name, _ in answer] == [name for name, _ in expected]
    np.testing.assert_allclose(
        [score for _, score in answer], [score for _, score in expected], rtol=0, atol=1e-12
    )
