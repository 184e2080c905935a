"""What the demo shows: one or more spaces over the same files, and the rows that can be named.

    open_index + Embedder -> Space -> Library -> search, thumbnails, media

Two spaces compare two models. One space also searches with fewer dimensions than it has: its
vectors are then cut and normalised into an exact index in memory, once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.demo.catalog import Catalog
from mmembed.demo.settings import DemoSettings
from mmembed.encoder.embedder import Embedder
from mmembed.encoder.reranker import Reranker
from mmembed.errors import ConfigError, MMEmbedError, SpaceMismatchError
from mmembed.search.index import Index
from mmembed.search.opening import open_index
from mmembed.search.rows import Row
from mmembed.search.searcher import Searcher
from mmembed.server.errors import RequestError

__all__ = ["Library", "Space", "model_label", "shortened"]

logger = logging.getLogger(__name__)

_LEAST_DIMENSION = 32
_BLOCK_ROWS = 4096
_REFRESH_SHARE = 20  # at most a twentieth of the time goes into refreshing


@dataclass
class Space:
    """A model and an index of its vectors.

    Attributes:
        label: for people, beside the results.
        dimension: searched with when a request names none; at most the index's own.
    """

    id: str
    label: str
    embedder: Embedder
    index: Index
    dimension: int = 0
    reranker: Reranker | None = None
    max_short_rows: int = 200_000
    refresh_seconds: float = 5.0
    problem: str | None = None
    method: str = "exact"
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _searchers: dict[int, Searcher] = field(default_factory=dict, repr=False)
    _next_refresh: float = 0.0

    def __post_init__(self) -> None:
        own = self.index.dimension
        self.dimension = self.dimension or own
        if not 1 <= self.dimension <= own:
            raise ConfigError(f"--dimension is {self.dimension}; the index has {own} dimensions")
        self._searchers[own] = Searcher(self.embedder, self.index, reranker=self.reranker)
        self._look()

    @property
    def dimensions(self) -> list[int]:
        """What a request may ask for: powers of two, and the index's own."""
        own = self.index.dimension
        powers = (1 << power for power in range(_LEAST_DIMENSION.bit_length() - 1, 16))
        return sorted({own, self.dimension, *(power for power in powers if power < own)})

    @contextmanager
    def reading(self, dimension: int | None = None) -> Iterator[Searcher]:
        """The searcher, alone: nobody refreshes the index meanwhile.

        Raises:
            RequestError: 400 for dimensions that are not there, 503 when the index has become
                another model's.
        """
        with self.lock:
            self._refresh_if_due()
            if self.problem is not None:
                raise RequestError(503, "index_changed", self.problem)
            yield self._searcher(dimension or self.dimension)

    def describe(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "label": self.label,
            "dimension": self.dimension,
            "dimensions": self.dimensions,
            "fingerprint": self.index.fingerprint,
        }

    def _searcher(self, dimension: int) -> Searcher:
        if dimension in self._searchers:
            return self._searchers[dimension]
        if dimension not in self.dimensions:
            allowed = ", ".join(map(str, self.dimensions))
            raise RequestError(
                400, "dimension", f"{dimension} dimensions; this space has {allowed}"
            )
        if len(self.index) > self.max_short_rows:
            raise RequestError(
                400,
                "dimension",
                f"an index of {len(self.index):,} rows is searched with its own "
                f"{self.index.dimension} dimensions only; make one with: mmembed index "
                f"--truncate-dim {dimension}",
            )
        short = open_index("memory:", fingerprint=self.index.fingerprint, dimension=dimension)
        for rows in _blocks(self.index):
            vectors = self.index.vectors([row.id for row in rows])
            short.upsert(rows, shortened(vectors, dimension))
        self._searchers[dimension] = Searcher(self.embedder, short, reranker=self.reranker)
        return self._searchers[dimension]

    def _refresh_if_due(self) -> None:
        started = time.monotonic()
        if started < self._next_refresh:
            return
        before = len(self.index)
        try:
            self.index.refresh()
            self.problem = None
            if len(self.index) != before:
                self._look()
        except SpaceMismatchError as error:
            logger.warning("%s", error)
            self.problem = "the index belongs to another model by now; start the demo again"
        except (MMEmbedError, OSError) as error:  # go on with what was read before
            logger.warning("%s: not refreshed: %s", self.label, error)
        spent = time.monotonic() - started
        self._next_refresh = started + max(self.refresh_seconds, _REFRESH_SHARE * spent)

    def _look(self) -> None:
        self.method = self.index.stats().method
        for dimension in set(self._searchers) - {self.index.dimension}:
            del self._searchers[dimension]


class Library:
    """Spaces over the same files; the first one is what the page begins with.

    Args:
        spaces: (model folder or hub id as people know it, embedder, index) of each.
        dimension: add a space that searches the first index with so many dimensions.
    """

    def __init__(
        self,
        spaces: Sequence[tuple[str, Embedder, Index]],
        *,
        settings: DemoSettings | None = None,
        reranker: Reranker | None = None,
        dimension: int | None = None,
        title: str | None = None,
    ) -> None:
        settings = settings or DemoSettings()
        self.spaces: dict[str, Space] = {}
        wanted: list[tuple[str, Embedder, Index, int]] = [(*space, 0) for space in spaces]
        if dimension is not None:
            wanted.append((*spaces[0], dimension))
        for name, embedder, index, width in wanted:
            label = model_label(name) + (f", {width} dimensions" if width else "")
            space = Space(
                str(len(self.spaces) + 1),
                label,
                embedder,
                index,
                width,
                reranker,
                settings.max_short_rows,
                settings.refresh_seconds,
            )
            self.spaces[space.id] = space
        self.first = next(iter(self.spaces.values()))
        self.reranker = reranker
        self._key = self.first.index.fingerprint
        self._counted = -1
        self._catalog = Catalog(self._key)
        self._lock = threading.Lock()
        root = self.catalog().root
        self.title = title or (root.name if root is not None else "") or "mmembed"

    def space(self, name: str | None) -> Space:
        """Raises RequestError (404)."""
        if name is None:
            return self.first
        if name not in self.spaces:
            raise RequestError(404, "no_space", f"there is no space {name!r}")
        return self.spaces[name]

    def catalog(self) -> Catalog:
        """What is in the first space's index, looked at again when its size has changed."""
        with self._lock, self.first.lock:
            index = self.first.index
            if len(index) != self._counted:
                catalog = Catalog.of(index.rows(), self._key)
                # rows of other spaces, and hits that pages still show, keep their names
                catalog.ids = {**self._catalog.ids, **catalog.ids}
                self._catalog, self._counted = catalog, len(index)
            return self._catalog

    def row(self, name: str) -> tuple[Space, Row]:
        """The row of an opaque name, and the first space that has it.

        Raises:
            RequestError: 404.
        """
        row_id = self.catalog().ids.get(name)
        for space in self.spaces.values() if row_id is not None else ():
            with space.lock:
                try:
                    return space, space.index.get([row_id])[0]  # type: ignore[list-item]
                except KeyError:
                    continue
        raise RequestError(404, "no_row", "this result is not in the index any more")

    def page_row(self, row: Row, space: Space, page: int) -> Row | None:
        """The row of another page of the same file."""
        name = f"{row.path}#page={page}"
        with space.lock:
            try:
                return space.index.get([name])[0]
            except KeyError:
                return None


def shortened(vectors: np.ndarray, dimension: int) -> np.ndarray:
    """(N, D) -> (N, dimension) unit rows of the first numbers (Matryoshka)."""
    cut = np.asarray(vectors, dtype=np.float32)[..., :dimension]
    return cut / np.maximum(np.linalg.norm(cut, axis=-1, keepdims=True), 1e-12)


def model_label(name: str) -> str:
    """A hub id as it is; of a folder, its name and the one that holds it."""
    path = Path(name)
    return "/".join(path.parts[-2:]) if path.is_absolute() else name


def _blocks(index: Index) -> Iterator[list[Row]]:
    block: list[Row] = []
    for row in index.rows():
        block.append(row)
        if len(block) == _BLOCK_ROWS:
            yield block
            block = []
    if block:
        yield block
