"""Exact nearest neighbours in numpy: the index that every other one is compared with.

    corpus -> upsert / delete -> commit -> search -> searcher

`ExactIndex` is a folder:

    index.json         format, fingerprint, dimension, count, settings and the name of the rows
                       file; replaced atomically, so readers always see one committed state
    rows-<hash>.jsonl  one row a line, sorted by id
    vectors/           an `EmbeddingStore`; rows of equal content share one vector

Exact search over 100,000 vectors of 1,024 dimensions takes tens of milliseconds in numpy; below
some 200,000 rows an approximate index is not worth building. Where the vectors do not fit into
memory, the setting `coarse` compares small codes first (see `compressed`).
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.errors import ConfigError, StoreError
from mmembed.search.compressed import CoarseCodes, parse_coarse
from mmembed.search.exact_scores import Block, full_scores, nearest_candidates
from mmembed.search.filters import Filter
from mmembed.search.index import (
    IndexStats,
    OptimizeReport,
    check_queries,
    check_unit,
)
from mmembed.search.recall import recall_at_10
from mmembed.search.rows import Match, Row, dump_row, parse_row, searchable_text
from mmembed.search.words import WordIndex
from mmembed.store.durable import dump_record, lock_folder, read_record, write_atomically
from mmembed.store.vectors import EmbeddingStore, check_space

__all__ = ["ExactIndex"]

_FORMAT = "mmembed-index/1"
_BLOCK_ROWS = 16_384
_MAX_OVERSAMPLE = 64


class ExactIndex:
    """Exact inner-product search in numpy over an `EmbeddingStore`.

    Args:
        folder: created when it is missing and `fingerprint` and `dimension` are given.
        fingerprint, dimension: the embedding space; None takes the index's own.

    Attributes:
        settings: free JSON values kept with the rows, e.g. the model and how files were cut.
            `coarse` asks for codes, e.g. `256:int8` (`compressed.parse_coarse`).

    Raises:
        SpaceMismatchError: the index belongs to another space; both are named.
        StoreError: no index there, or a damaged one.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        fingerprint: str | None = None,
        dimension: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.uri = f"numpy:{self.folder}"
        self.settings: dict[str, Any] = {}
        self._rows: dict[str, Row] = {}
        self._layout: _Layout | None = None
        is_new = not (self.folder / "index.json").exists()
        if is_new:
            if fingerprint is None or dimension is None:
                raise StoreError(
                    f"there is no index in {self.folder}; make one with: "
                    "mmembed index FOLDER --model MODEL --out INDEX"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
        else:
            # before the store, so that a message about another model speaks of the index
            self._reload(fingerprint, dimension)
            fingerprint, dimension = self._space
        self.store = EmbeddingStore(
            self.folder / "vectors", fingerprint=fingerprint, dimension=dimension
        )
        if is_new:
            self._write()

    @property
    def fingerprint(self) -> str:
        return self.store.fingerprint

    @property
    def dimension(self) -> int:
        return self.store.dimension

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, where: Filter | None = None) -> Iterator[Row]:
        """All rows, sorted by id."""
        every = (self._rows[name] for name in sorted(self._rows))
        return every if where is None else (row for row in every if where.matches(row))

    def get(self, ids: Sequence[str]) -> list[Row]:
        return [self._rows[name] for name in ids]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        return self.store.get([row.key for row in self.get(ids)])

    def known_vectors(self, keys: Iterable[str]) -> dict[str, np.ndarray]:
        known = [key for key in dict.fromkeys(keys) if key in self.store]
        return dict(zip(known, self.store.get(known), strict=True))

    def refresh(self) -> None:
        self._reload(self.fingerprint, self.dimension)
        self.store.refresh()
        self._layout = None

    def close(self) -> None:
        """Nothing is held open."""

    def optimize(self, *, min_recall: float = 0.99) -> OptimizeReport:
        """Measure the codes that `settings["coarse"]` asks for, take more candidates until the
        recall suffices, or give them up; commits."""
        if "coarse" not in self.settings:
            return OptimizeReport("exact", None, 0.0, "numpy compares with every row")
        started = time.monotonic()
        asked = coarse = parse_coarse(self.settings["coarse"], self.dimension)
        recall = recall_at_10(self)
        while recall < min_recall and coarse.oversample < _MAX_OVERSAMPLE:
            coarse = coarse.oversampled(2)
            self.settings["coarse"] = str(coarse)
            recall = recall_at_10(self)
        reason = f"{coarse.oversample} candidates for each result"
        if recall < min_recall:
            del self.settings["coarse"]
            reason = f"{asked} reaches {recall:.3f} of {min_recall:g} with {reason}"
        self.commit()
        seconds = time.monotonic() - started
        return OptimizeReport(self.stats().method, recall, seconds, reason)

    def stats(self) -> IndexStats:
        return IndexStats(
            rows=len(self),
            rows_by_kind=Counter(row.kind for row in self._rows.values()),
            bytes_on_disk=sum(
                path.stat().st_size for path in self.folder.rglob("*") if path.is_file()
            ),
            method=str(self.settings.get("coarse", "exact")),
        )

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other writers out, and start from the rows that they committed last.

        Raises:
            StoreError: another process is writing.
        """
        with lock_folder(self.folder, wait=False):
            settings = self.settings
            self.refresh()
            self.settings = {**self.settings, **settings}
            yield

    def upsert(self, rows: Sequence[Row], vectors: np.ndarray | None = None) -> None:
        """Add rows or replace those of the same id; `commit` makes it durable.

        Args:
            vectors: (N, D) unit rows to store first; None when the store has every `row.key`.

        Raises:
            ValueError: vectors that are not of unit length, or that the store refuses.
            KeyError: a row whose vector is neither given nor stored.
        """
        keys = [row.key for row in rows]
        if vectors is not None:
            check_unit(np.asarray(vectors))
            self.store.add(keys, vectors)
        lost = self.store.missing(keys)
        if lost:
            raise KeyError(f"{len(lost)} of {len(rows)} rows have no vector, e.g. {lost[0]}")
        self._rows.update((row.id, row) for row in rows)
        self._layout = None

    def delete(self, ids: Iterable[str]) -> int:
        """Remove rows; unknown ids are ignored. Vectors stay, so a file that returns is free."""
        removed = sum(self._rows.pop(name, None) is not None for name in ids)
        self._layout = None
        return removed

    def commit(self) -> None:
        """Make the current rows what readers see. A crash before leaves the former state."""
        try:
            self._write()
        except OSError as error:
            raise StoreError(
                f"cannot write the index {self.folder}: {error.strerror or error}; "
                "the last committed state is unharmed"
            ) from error

    def search_text(self, text: str, k: int, *, where: Filter | None = None) -> list[Match]:
        if k < 1:
            raise ConfigError(f"k is {k}; it must be at least 1")
        layout = self._current_layout()
        wanted = None if where is None else layout.matching(where)
        found = layout.words.search(text, k, wanted=wanted)
        return [Match(score, layout.rows[number]) for number, score in found]

    def search(
        self, vectors: np.ndarray, k: int, *, where: Filter | None = None, exact: bool = False
    ) -> list[list[Match]]:
        """The k best rows of each query, exactly, best first.

        Candidates come from float32 products of one block at a time; their final scores and
        order are computed in float64, so neither block size nor other queries can change a
        ranking. Equal scores are ordered by id. With the setting `coarse`, and unless `exact`,
        candidates come from codes instead.
        """
        queries = check_queries(vectors, self.dimension, k)
        layout = self._current_layout()
        wanted = None if where is None else layout.matching(where)
        if "coarse" in self.settings and not exact:
            codes = self._codes(layout)
            return [
                self._rank(layout, query, codes.candidates(query, k, wanted), k)
                for query in queries
            ]

        def blocks() -> Iterator[Block]:
            for shard, positions, numbers in layout.shards:
                kept = slice(None) if wanted is None else wanted[numbers]
                yield self.store.shard(shard), positions[kept], numbers[kept]

        return [
            self._rank(layout, found.query, found.numbers, k)
            for found in nearest_candidates(queries, k, blocks)
        ]

    def _current_layout(self) -> _Layout:
        self._layout = self._layout or _Layout.of(self._rows, self.store)
        return self._layout

    def _codes(self, layout: _Layout) -> CoarseCodes:
        text = str(self.settings["coarse"])
        if text not in layout.codes:
            blocks = (
                (numbers[start : start + _BLOCK_ROWS], self.store.shard(shard)[chosen])
                for shard, positions, numbers in layout.shards
                for start in range(0, len(numbers), _BLOCK_ROWS)
                for chosen in [positions[start : start + _BLOCK_ROWS]]
            )
            coarse = parse_coarse(text, self.dimension)
            layout.codes[text] = CoarseCodes(coarse, len(layout.rows), blocks)
        return layout.codes[text]

    def _rank(self, layout: _Layout, query: np.ndarray, numbers: np.ndarray, k: int) -> list[Match]:
        rows = [layout.rows[number] for number in numbers]
        scores = full_scores(query, self.store.get([row.key for row in rows]))
        order = np.lexsort((numbers, -scores))[:k]
        return [Match(float(scores[place]), rows[place]) for place in order]

    def _reload(self, fingerprint: str | None, dimension: int | None) -> None:
        for attempt in range(3):
            header = read_record(self.folder / "index.json", _FORMAT)
            path = self.folder / header["rows"]
            try:
                payload = path.read_bytes()
                break
            except FileNotFoundError:
                # a writer replaced index.json and its rows between the two reads
                if attempt == 2:
                    raise StoreError(f"{path} is missing; index the folder again") from None
        self._space = (header["fingerprint"], header["dimension"])
        check_space(
            f"the index {self.folder}",
            self._space,
            (fingerprint or self._space[0], dimension or self._space[1]),
        )
        if hashlib.sha256(payload).hexdigest() != header["rows_sha256"]:
            raise StoreError(f"{path} is damaged (sha256 differs); index the folder again")
        rows = [parse_row(line) for line in payload.splitlines()]
        self._rows = {row.id: row for row in rows}
        self.settings = header["settings"]

    def _write(self) -> None:
        payload = b"".join(dump_row(row) + b"\n" for row in self.rows())
        digest = hashlib.sha256(payload).hexdigest()
        header: Mapping[str, Any] = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "dimension": self.dimension,
            "metric": "inner_product",
            "count": len(self._rows),
            "rows": f"rows-{digest[:16]}.jsonl",
            "rows_sha256": digest,
            "settings": self.settings,
        }
        path = self.folder / "index.json"
        line = dump_record(header) + b"\n"
        if not path.exists() or path.read_bytes() != line:
            write_atomically(self.folder / header["rows"], payload)
            write_atomically(path, line)
        for former in self.folder.glob("rows-*.jsonl"):
            if former.name != header["rows"]:
                former.unlink()


@dataclass(frozen=True)
class _Layout:
    """Which rows use which place of which shard; `numbers` count rows in the order of their ids.

    `shards` holds (shard, positions in it (n,), row numbers (n,)), sorted by position.
    """

    rows: list[Row]
    shards: list[tuple[int, np.ndarray, np.ndarray]]
    codes: dict[str, CoarseCodes] = field(default_factory=dict)

    @cached_property
    def words(self) -> WordIndex:
        return WordIndex(searchable_text(row) for row in self.rows)

    @classmethod
    def of(cls, rows: Mapping[str, Row], store: EmbeddingStore) -> _Layout:
        ordered = [rows[name] for name in sorted(rows)]
        places = np.array([store.locate(row.key) for row in ordered], dtype=np.int64)
        places = places.reshape(len(ordered), 2)  # (N, [shard, position])
        order = np.lexsort((places[:, 1], places[:, 0]))
        shards = []
        for shard in np.unique(places[:, 0]):
            numbers = order[places[order, 0] == shard]
            shards.append((int(shard), places[numbers, 1], numbers))
        return cls(ordered, shards)

    def matching(self, where: Filter) -> np.ndarray:
        """(N,) bool: which rows the filter lets through."""
        return np.array([where.matches(row) for row in self.rows], dtype=bool)
