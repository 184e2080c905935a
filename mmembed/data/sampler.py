"""Global batches of row numbers: one group in each batch, no document twice in a batch.

RzenEmbed 3.4.2 takes every batch from one dataset (so negatives are of one kind), with its
image-classification sets merged into one; a `group` here is either. An epoch's batches are a
function of (seed, epoch), so the state of the sampler is two numbers, (epoch, batch).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmembed.data.mixture import Mixture
from mmembed.errors import ConfigError

__all__ = ["BatchSampler", "GlobalBatch"]

_BATCH_ORDER = 4  # tag of a random stream; see mmembed.data.mixture


@dataclass(frozen=True)
class GlobalBatch:
    """The rows of one step on all processes together."""

    epoch: int
    number: int
    group: str
    rows: tuple[int, ...]


class BatchSampler:
    """Homogeneous batches in random order. Tails are kept as smaller batches.

    Args:
        mixture: the rows.
        batch_size: rows of a full global batch.
    """

    def __init__(self, mixture: Mixture, batch_size: int) -> None:
        self.mixture = mixture
        self.batch_size = batch_size
        self._cached: tuple[int, list[GlobalBatch]] | None = None

    def epoch_batches(self, epoch: int) -> list[GlobalBatch]:
        """All batches of an epoch, in order.

        Raises:
            ConfigError: the weights leave no row.
        """
        if self._cached is not None and self._cached[0] == epoch:
            return self._cached[1]
        drawn = [
            (group, rows)
            for group in self.mixture.groups
            for rows in self._without_duplicates(self.mixture.epoch_rows(group, epoch))
        ]
        if not drawn:
            raise ConfigError(
                f"epoch {epoch} of the mixture has no rows; raise the weights of "
                + ", ".join(entry.name for entry in self.mixture.entries)
            )
        random = np.random.default_rng([self.mixture.seed, _BATCH_ORDER, epoch])
        batches = [
            GlobalBatch(epoch, number, *drawn[position])
            for number, position in enumerate(random.permutation(len(drawn)))
        ]
        self._cached = (epoch, batches)
        return batches

    def batches(self, epoch: int = 0, number: int = 0) -> Iterator[GlobalBatch]:
        """Batches without end, from batch `number` of `epoch` on. The caller counts steps."""
        while True:
            yield from self.epoch_batches(epoch)[number:]
            epoch, number = epoch + 1, 0

    def _without_duplicates(self, rows: np.ndarray) -> Iterator[tuple[int, ...]]:
        """Cut shuffled rows into batches; a row whose document is in the batch already waits.

        Waiting rows stand in line behind their document, and each batch takes at most one from
        each line: linear in the number of rows, however often a document occurs.
        """
        fresh = deque(int(row) for row in rows)
        waiting: dict[int, deque[int]] = {}
        while fresh or waiting:
            batch: list[int] = []
            present: set[int] = set()
            for line in list(waiting):
                if len(batch) == self.batch_size:
                    break
                head = waiting[line][0]
                ids = self.mixture.document_ids(head)
                if present.isdisjoint(ids):
                    waiting[line].popleft()
                    batch.append(head)
                    present.update(ids)
                    if not waiting[line]:
                        del waiting[line]
            while fresh and len(batch) < self.batch_size:
                row = fresh.popleft()
                ids = self.mixture.document_ids(row)
                if present.isdisjoint(ids):
                    batch.append(row)
                    present.update(ids)
                else:
                    shared = next(id_ for id_ in ids if id_ in present)
                    waiting.setdefault(shared, deque()).append(row)
            yield tuple(batch)
