"""Batches prepared ahead of the training loop, in order, by threads with bounded memory.

Threads, not processes. Files are decoded in killable processes already (`inputs/sandbox.py`), and
tokenising and resizing release the interpreter lock. What a pool of processes would add was
measured with a training loop of small eager operations (two busy cores, four rounds): beside
one preparing thread it ran at 1.0 (texts) and 1.3 (pictures) times its speed beside a process that
prepares the same, beside two at 0.9 and 1.0 times. A process would have to send 6 MB of patches
for each picture of 1280 tokens.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from mmembed.data.bad_rows import BadRows, SkippedRow
from mmembed.data.mixture import Mixture
from mmembed.data.sampler import GlobalBatch
from mmembed.errors import InputError
from mmembed.inputs.contrastive import TrainingRow, all_good

__all__ = ["BatchLoader", "Collator"]

Batch_co = TypeVar("Batch_co", covariant=True)


class Collator(Protocol[Batch_co]):
    """Prepared rows say how large they are (`num_bytes`); collating them is cheap."""

    def prepare(self, rows: Sequence[TrainingRow]) -> list[Any]:
        """One prepared row or InputError for each row."""

    def collate(self, rows: Sequence[Any]) -> Batch_co: ...


@dataclass(frozen=True)
class _Prepared(Generic[Batch_co]):
    batch: Batch_co
    num_bytes: int
    skipped: list[SkippedRow]


class BatchLoader(Generic[Batch_co]):
    """Iterates (global batch, prepared local batch).

    Args:
        batches: global batches in training order, e.g. from `BatchSampler.batches`.
        mixture: where their rows are.
        collator: prepares and packs rows; called from the threads.
        num_workers: threads; each holds one batch and one more waits. 0 = prepare when asked.
        cache_bytes: keep prepared rows in memory up to this size. Rows that come again in a later
            epoch are then neither read nor decoded nor tokenised again. 0 = off.
        ahead_bytes: batches beside the one in use are prepared while they fit, all taken as large
            as the largest so far; one always is. None = as many as there are workers for.
        bad_rows: what stands in for rows that cannot be used; None = they raise.
        rank, world_size: this process prepares its share of every global batch.

    Attributes:
        wait_seconds: time the consumer has spent waiting for batches.
    """

    def __init__(
        self,
        batches: Iterator[GlobalBatch],
        mixture: Mixture,
        collator: Collator[Batch_co],
        *,
        num_workers: int = 1,
        cache_bytes: int = 0,
        ahead_bytes: int | None = None,
        bad_rows: BadRows | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.wait_seconds = 0.0
        self._batches = batches
        self._mixture = mixture
        self._collator = collator
        self._num_workers = num_workers
        self._cache = _RowCache(cache_bytes)
        self._ahead_bytes = ahead_bytes
        self._largest_bytes = 0
        self._bad_rows = bad_rows
        self._rank = rank
        self._world_size = world_size

    @property
    def skipped_rows(self) -> int:
        """Bad rows that others stood in for, on all processes, earlier parts of a run included."""
        return 0 if self._bad_rows is None else self._bad_rows.count

    def __iter__(self) -> Generator[tuple[GlobalBatch, Batch_co], None, None]:
        """Yield batches until the caller stops; then the threads end.

        Raises:
            InputError: from the thread that met it, naming dataset, row and item.
        """
        if self._num_workers == 0:
            begin = time.perf_counter()
            for batch in self._batches:
                prepared = self._prepare(batch)
                self.wait_seconds += time.perf_counter() - begin
                yield batch, self._used(prepared)
                begin = time.perf_counter()
            return
        pending: deque[tuple[GlobalBatch, Future[_Prepared[Batch_co]]]] = deque()
        executor = ThreadPoolExecutor(self._num_workers, thread_name_prefix="mmembed-data")
        try:
            while True:
                begin = time.perf_counter()
                # The one at the head is about to be used; it does not count as ahead.
                while len(pending) <= self._num_workers and self._is_room(len(pending)):
                    planned = next(self._batches, None)
                    if planned is None:
                        break
                    pending.append((planned, executor.submit(self._prepare, planned)))
                if not pending:
                    return
                batch, future = pending.popleft()
                prepared = future.result()
                self.wait_seconds += time.perf_counter() - begin
                yield batch, self._used(prepared)
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _is_room(self, ahead: int) -> bool:
        bound = self._ahead_bytes
        if bound is None or ahead <= 1:
            return True
        return self._largest_bytes > 0 and ahead * self._largest_bytes <= bound

    def _used(self, prepared: _Prepared[Batch_co]) -> Batch_co:
        self._largest_bytes = max(self._largest_bytes, prepared.num_bytes)
        if self._bad_rows is not None:
            self._bad_rows.record(prepared.skipped)
        return prepared.batch

    def _prepare(self, batch: GlobalBatch) -> _Prepared[Batch_co]:
        places = batch.share(self._rank, self._world_size)
        rows = self._rows([batch.rows[place] for place in places], batch.epoch)
        skipped: list[SkippedRow] = []
        if self._bad_rows is None:
            rows = all_good(rows)
        else:
            rows, skipped = self._bad_rows.repair(
                batch, places, rows, lambda indices: self._rows(indices, batch.epoch)
            )
        num_bytes = sum(row.num_bytes for row in rows)
        return _Prepared(self._collator.collate(rows), num_bytes, skipped)

    def _rows(self, indices: Sequence[int], epoch: int) -> list[Any]:
        """One prepared row, or its InputError, for each index."""
        rows: dict[int, Any] = {}
        fresh: dict[int, TrainingRow] = {}
        unread: list[int] = []
        for index in dict.fromkeys(indices):
            known = self._bad_rows.known(index) if self._bad_rows is not None else None
            rows[index] = self._cache.get(index) if known is None else known
            if rows[index] is None:
                unread.append(index)
        for index, row in zip(unread, self._mixture.rows(unread, epoch=epoch), strict=True):
            if isinstance(row, InputError):
                rows[index] = row
            else:
                fresh[index] = row
        prepared = self._collator.prepare(list(fresh.values())) if fresh else []
        for (index, row), result in zip(fresh.items(), prepared, strict=True):
            rows[index] = result
            if not row.varies and not isinstance(result, InputError):
                self._cache.put(index, result)
        return [rows[index] for index in indices]


class _RowCache:
    """Prepared rows, least recently used out first."""

    def __init__(self, capacity: int) -> None:
        self._room = capacity
        self._rows: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, index: int) -> Any:
        with self._lock:
            row = self._rows.get(index)
            if row is not None:
                self._rows.move_to_end(index)
            return row

    def put(self, index: int, row: Any) -> None:
        with self._lock:
            if index in self._rows:
                return
            self._rows[index] = row
            self._room -= row.num_bytes
            while self._room < 0:
                _, oldest = self._rows.popitem(last=False)
                self._room += oldest.num_bytes
