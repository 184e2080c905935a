"""The default index: a LanceDB table in a folder or on object storage, for any number of processes.

    corpus -> upsert / delete -> commit -> optimize
    searcher -> search (memory or approximate index) + search_text (full-text index)

A commit is one transaction of Lance: readers see all of it or nothing, also after a kill. Rows
are merged by id, so that several writers make no duplicates. Up to 200,000 rows, or where a
filter leaves fewer than 50,000, search compares with every row: numpy over vectors in memory
takes a tenth of the time of Lance's own scan and gives the scores of `exact_index` to the last
bit. Beyond that `optimize` builds IVF_HNSW_SQ and keeps it if its recall is good enough.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mmembed.errors import ConfigError, StoreError
from mmembed.search.exact_scores import nearest_candidates
from mmembed.search.filters import Filter
from mmembed.search.index import IndexStats, OptimizeReport, check_queries, given_vectors
from mmembed.search.lance_filters import sql_condition
from mmembed.search.lance_rows import read_record, read_settings, settings_update
from mmembed.search.lance_table import (
    METHOD,
    TABLE,
    build_vector_index,
    bytes_in,
    connect,
    create_table,
    drop_vector_index,
    ensure_words_index,
    merge_rows,
    open_table,
    retried,
    search_vector_index,
    search_words_index,
    tidy,
)
from mmembed.search.lance_view import LanceView
from mmembed.search.recall import recall_at_10
from mmembed.search.rows import Match, Row
from mmembed.search.words import query_tokens
from mmembed.store.vectors import check_space

__all__ = ["LanceIndex"]

_MAX_APPROXIMATE_K, _READ_ROWS = 1000, 1024
_Found = TypeVar("_Found")


class LanceIndex:
    """Rows in a LanceDB table.

    Args:
        uri: a folder, or `s3://`, `gs://`, `az://`; created when it is missing and `fingerprint`
            and `dimension` are given.
        fingerprint, dimension: the embedding space; None takes the index's own.
        exact_below: rows from which an approximate index is worth building.
        exact_filtered_below: rows that a filter leaves, below which they are all compared.
        max_memory_bytes: of vectors kept in memory; larger tables are read at each exact search.
        keep_seconds: how long `optimize` leaves former versions to readers that have not
            refreshed.

    Attributes:
        folder: where the index lies; None on object storage.
        settings: free JSON values kept with the rows, e.g. the model and how files were cut.

    Raises:
        SpaceMismatchError: the index belongs to another space; both are named.
        StoreError: no index there, or a damaged one.
    """

    def __init__(
        self,
        uri: Path | str,
        *,
        fingerprint: str | None = None,
        dimension: int | None = None,
        exact_below: int = 200_000,
        exact_filtered_below: int = 50_000,
        max_memory_bytes: int = 2 * 2**30,
        keep_seconds: float = 300.0,
    ) -> None:
        address = str(uri)
        self.folder = None if "://" in address else Path(uri)
        self.uri = address if self.folder is None else f"lance:{self.folder}"
        self.exact_below = exact_below
        self.exact_filtered_below = exact_filtered_below
        self._keep = timedelta(seconds=max(keep_seconds, 1e-3))
        self._max_bytes = max_memory_bytes
        self._owner = f"the index {address}"
        self._lock = threading.Lock()
        self._upserts: dict[str, tuple[Row, np.ndarray]] = {}
        self._deletes: set[str] = set()
        self._fresh: dict[str, np.ndarray] = {}
        is_creating = fingerprint is not None and dimension is not None
        # connecting would make the folder
        if self.folder is not None and not is_creating and not self.folder.is_dir():
            raise self._absent()
        self._database = connect(self.folder or address, self._owner)
        table = open_table(self._database, self._owner)
        if table is None:
            if fingerprint is None or dimension is None:
                raise self._absent()
            table = create_table(self._database, fingerprint, dimension, self._owner)
        self._record = read_record(table.schema, self._owner)
        check_space(
            self._owner,
            (self.fingerprint, self.dimension),
            (fingerprint or self.fingerprint, dimension or self.dimension),
        )
        self.settings: dict[str, Any] = read_settings(table.schema)
        self._view = self._make_view(table, None)

    @property
    def fingerprint(self) -> str:
        return str(self._record["fingerprint"])

    @property
    def dimension(self) -> int:
        return int(self._record["dimension"])

    def __len__(self) -> int:
        return self._view.count

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Begin from what is committed; other processes may write too."""
        settings = self.settings
        self._forget_buffer()
        self.refresh()
        self.settings = {**self.settings, **settings}
        yield

    def refresh(self) -> None:
        table = open_table(self._database, self._owner)
        if table is None:
            raise StoreError(f"{self._owner} is gone; index the folder again")
        record = read_record(table.schema, self._owner)
        space = (record["fingerprint"], record["dimension"])
        check_space(self._owner, space, (self.fingerprint, self.dimension))
        with self._lock:
            self.settings = read_settings(table.schema)
            if record != self._record:  # somebody has made it anew
                self._record, self._view = record, self._make_view(table, None)
            elif table.version != self._view.version:
                self._view = self._make_view(table, self._view)

    def close(self) -> None:
        """Let go of what was not committed and of the vectors in memory."""
        self._forget_buffer()
        self._view = self._make_view(self._view.table, None)

    def upsert(self, rows: Sequence[Row], vectors: np.ndarray | None = None) -> None:
        """Collect rows for the next `commit`; readers, this object too, see them from then on."""
        for row, vector in zip(rows, given_vectors(self, rows, vectors), strict=True):
            self._upserts[row.id] = (row, vector)
            self._fresh[row.key] = vector
            self._deletes.discard(row.id)

    def delete(self, ids: Iterable[str]) -> int:
        names = set(ids)
        committed = self._read(lambda view: {name for name in names if name in view.ids})
        there = {name for name in names if name in self._upserts} | (committed - self._deletes)
        for name in names:
            self._upserts.pop(name, None)
        self._deletes |= names
        return len(there)

    def commit(self) -> None:
        """Make everything collected durable and visible, in one transaction."""
        try:
            table = self._database.open_table(TABLE)
            if self.settings != read_settings(table.schema):
                update = settings_update(self.settings)
                retried(table, lambda: table.update_field_metadata(update))
            if self._upserts or self._deletes:
                ensure_words_index(table)
                rows = [row for row, _ in self._upserts.values()]
                vectors = np.array([vector for _, vector in self._upserts.values()])
                merge_rows(table, rows, vectors, self._deletes)
                tidy(table, self._keep)
        except (OSError, RuntimeError) as error:
            raise StoreError(
                f"cannot write {self._owner}: {error}; the last committed state is unharmed"
            ) from error
        self._forget_buffer()
        self.refresh()

    def rows(self, where: Filter | None = None) -> Iterator[Row]:
        """All rows, sorted by id. Raises StoreError when `optimize` of another process removes
        this version meanwhile."""

        def read(view: LanceView) -> tuple[LanceView, list[int]]:
            order = [address for _, address in sorted(view.ids.items())]
            if where is not None:
                wanted = set(view.addresses(sql_condition(where)).tolist())
                order = [address for address in order if address in wanted]
            return view, order

        view, order = self._read(read)
        for start in range(0, len(order), _READ_ROWS):
            with self._reading():
                rows = view.rows(order[start : start + _READ_ROWS])
            yield from rows

    def get(self, ids: Sequence[str]) -> list[Row]:
        return self._read(lambda view: view.rows([view.ids[name] for name in ids]))

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        def read(view: LanceView) -> np.ndarray:
            return view.vectors(np.array([view.ids[name] for name in ids], dtype=np.int64))

        return self._read(read)

    def known_vectors(self, keys: Iterable[str]) -> dict[str, np.ndarray]:
        wanted = dict.fromkeys(keys)

        def read(view: LanceView) -> dict[str, np.ndarray]:
            stored = [key for key in wanted if key not in self._fresh and key in view.keys]
            addresses = np.array([view.keys[key] for key in stored], dtype=np.int64)
            return dict(zip(stored, view.vectors(addresses), strict=True))

        return {key: self._fresh[key] for key in wanted if key in self._fresh} | self._read(read)

    def search(
        self, vectors: np.ndarray, k: int, *, where: Filter | None = None, exact: bool = False
    ) -> list[list[Match]]:
        """The k best rows of each query, best first; equal scores are ordered by id.

        Whatever finds them, scores are float64 products with the full vectors.
        """
        queries = check_queries(vectors, self.dimension, k)
        condition = None if where is None else sql_condition(where)

        def read(view: LanceView) -> list[list[Match]]:
            if not exact and self._is_approximate(view, condition, k):
                found = [search_vector_index(view.table, q, k, condition) for q in queries]
                if all(len(addresses) >= min(k, view.count) for addresses in found):
                    return view.ranked(queries, found, k)
            candidates = nearest_candidates(queries, k, lambda: view.blocks(condition))
            return view.ranked(queries, [each.numbers for each in candidates], k)

        return self._read(read)

    def search_text(self, text: str, k: int, *, where: Filter | None = None) -> list[Match]:
        if k < 1:
            raise ConfigError(f"k is {k}; it must be at least 1")
        words = " ".join(query_tokens(text))
        condition = None if where is None else sql_condition(where)
        if not words:
            return []

        def read(view: LanceView) -> list[Match]:
            addresses, scores = search_words_index(view.table, words, k, condition)
            return view.ordered([(addresses, scores)], k)[0]

        return self._read(read)

    def optimize(self, *, min_recall: float = 0.99) -> OptimizeReport:
        """Join small files, bring the indexes up to date and remove versions older than
        `keep_seconds`; from `exact_below` rows on build the approximate index, and keep it while
        its recall@10 is at least `min_recall`."""
        try:
            return self._optimize(min_recall)
        except (OSError, RuntimeError) as error:
            raise StoreError(f"cannot optimize {self._owner}: {error}; no row is lost") from error

    def _optimize(self, min_recall: float) -> OptimizeReport:
        started = time.monotonic()
        table = self._database.open_table(TABLE)
        ensure_words_index(table)
        is_small = table.count_rows() < self.exact_below
        if is_small:
            drop_vector_index(table)
        retried(table, lambda: table.optimize(cleanup_older_than=self._keep))
        self.refresh()
        if is_small:
            reason = f"all {len(self):,} rows are compared; from {self.exact_below:,} rows on an "
            return self._report(None, started, reason + "approximate index is built")
        is_new = self._view.unindexed is None
        if is_new:
            self._build_vector_index(table)
        recall = recall_at_10(self)
        if recall < min_recall and not is_new:
            self._build_vector_index(table)
            recall = recall_at_10(self)
        if recall < min_recall:
            drop_vector_index(table)
            self.refresh()
            reason = f"{METHOD} finds {recall:.3f} of the ten nearest, {min_recall:g} are asked"
            return self._report(None, started, f"{reason}: every row is compared")
        reason = f"{len(self):,} rows, of the ten nearest {recall:.3f} are found"
        return self._report(recall, started, reason)

    def stats(self) -> IndexStats:
        view, kinds = self._read(lambda view: (view, view.kinds()))
        size = None if self.folder is None else bytes_in(self.folder)
        return IndexStats(view.count, kinds, size, _method(view), view.unindexed or 0)

    def _report(self, recall: float | None, started: float, reason: str) -> OptimizeReport:
        return OptimizeReport(_method(self._view), recall, time.monotonic() - started, reason)

    def _make_view(self, table: Any, former: LanceView | None) -> LanceView:
        return LanceView(table, dimension=self.dimension, max_bytes=self._max_bytes, former=former)

    def _build_vector_index(self, table: Any) -> None:
        build_vector_index(table)
        self.refresh()

    def _is_approximate(self, view: LanceView, condition: str | None, k: int) -> bool:
        if view.unindexed is None or k > _MAX_APPROXIMATE_K or view.count < self.exact_below:
            return False
        return condition is None or view.table.count_rows(condition) >= self.exact_filtered_below

    def _forget_buffer(self) -> None:
        self._upserts, self._deletes, self._fresh = {}, set(), {}

    def _read(self, action: Callable[[LanceView], _Found]) -> _Found:
        """Read the present version; the newest one where that was removed by `optimize`."""
        try:
            return action(self._view)
        except (OSError, RuntimeError):
            settings = self.settings
            self.refresh()
            self.settings = settings
        with self._reading():
            return action(self._view)

    def _absent(self) -> StoreError:
        return StoreError(
            f"there is no index in {self.folder or self.uri}; make one with: "
            "mmembed index FOLDER --model MODEL --out INDEX"
        )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            raise StoreError(
                f"cannot read {self._owner}: {error}. Open it again; if that fails too it is "
                "damaged: restore it or index the folder again"
            ) from error


def _method(view: LanceView) -> str:
    return "exact" if view.unindexed is None else METHOD
