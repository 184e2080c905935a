"""Batches prepared ahead of the training loop, in order, by threads with bounded memory.

Decoding, resizing and tokenising release the interpreter lock for most of their time, so threads
overlap with the forward pass and nothing needs to be pickled or copied.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

from mmembed.data.mixture import Mixture
from mmembed.data.sampler import GlobalBatch
from mmembed.inputs.contrastive import TrainingRow

__all__ = ["BatchLoader", "Collator"]

Batch_co = TypeVar("Batch_co", covariant=True)


class Collator(Protocol[Batch_co]):
    """Prepared rows say how large they are (`num_bytes`); collating them is cheap."""

    def prepare(self, rows: Sequence[TrainingRow]) -> list[Any]: ...

    def collate(self, rows: Sequence[Any]) -> Batch_co: ...


class BatchLoader(Generic[Batch_co]):
    """Iterates (global batch, prepared local batch).

    Args:
        batches: global batches in training order, e.g. from `BatchSampler.batches`.
        mixture: where their rows are.
        collator: prepares and packs rows; called from the threads.
        num_workers: threads; each holds one batch and one more waits. 0 = prepare when asked.
        cache_bytes: keep prepared rows in memory up to this size. Rows that come again in a later
            epoch are then neither read nor decoded nor tokenised again. 0 = off.
        rank, world_size: this process prepares its contiguous slice of every global batch.

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
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.wait_seconds = 0.0
        self._batches = batches
        self._mixture = mixture
        self._collator = collator
        self._num_workers = num_workers
        self._cache = _RowCache(cache_bytes)
        self._rank = rank
        self._world_size = world_size

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
                yield batch, prepared
                begin = time.perf_counter()
            return
        pending: deque[tuple[GlobalBatch, Future[Batch_co]]] = deque()
        executor = ThreadPoolExecutor(self._num_workers, thread_name_prefix="mmembed-data")
        try:
            while True:
                begin = time.perf_counter()
                while len(pending) <= self._num_workers:
                    planned = next(self._batches, None)
                    if planned is None:
                        break
                    pending.append((planned, executor.submit(self._prepare, planned)))
                if not pending:
                    return
                batch, future = pending.popleft()
                prepared = future.result()
                self.wait_seconds += time.perf_counter() - begin
                yield batch, prepared
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, batch: GlobalBatch) -> Batch_co:
        share, rest = divmod(len(batch.rows), self._world_size)
        begin = self._rank * share + min(self._rank, rest)
        indices = batch.rows[begin : begin + share + (self._rank < rest)]
        cached = {index: self._cache.get(index) for index in indices}
        rows = {index: row for index, row in cached.items() if row is not None}
        missing = [index for index in indices if index not in rows]
        fresh = [self._mixture.row(index, epoch=batch.epoch) for index in missing]
        prepared = self._collator.prepare(fresh)
        rows.update(zip(missing, prepared, strict=True))
        for index, training_row in zip(missing, fresh, strict=True):
            if len(training_row.example.positives) == 1:  # else another epoch draws another one
                self._cache.put(index, rows[index])
        return self._collator.collate([rows[index] for index in indices])


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
