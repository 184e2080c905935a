"""Global batches of row numbers: one group in each batch, no document twice in a batch.

RzenEmbed 3.4.2 takes every batch from one dataset (so negatives are of one kind), with its
image-classification sets merged into one; a `group` here is either. How many batches a group gives
is its share of the rows, or follows `SamplingConfig` (mT5 and GTE's size^exponent; QZhou's fixed
mass for retrieval). An epoch's batches are a function of (seed, epoch), so the state of the
sampler is two numbers, (epoch, batch).
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mmembed.config.stage import SamplingConfig
from mmembed.data.mixture import Mixture
from mmembed.errors import ConfigError
from mmembed.types import Task

__all__ = ["BatchSampler", "GlobalBatch", "group_shares"]

_BATCH_ORDER, _SHARES = 4, 5  # tags of random streams; see mmembed.data.mixture


@dataclass(frozen=True)
class GlobalBatch:
    """The rows of one step on all processes together."""

    epoch: int
    number: int
    group: str
    rows: tuple[int, ...]


def group_shares(
    sizes: Mapping[str, int],
    tasks: Mapping[str, str],
    *,
    exponent: float,
    task_shares: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """The probability of each group: size^exponent / sum, inside each fixed share of tasks.

    Args:
        sizes, tasks: rows and task of each group.
        task_shares: total of the groups of a task; the other tasks share the rest.

    Raises:
        ConfigError: a share for a task without groups, or no task left for the rest.
    """
    fixed = dict(task_shares or {})
    idle = sorted(set(fixed) - set(tasks.values()))
    if idle:
        raise ConfigError(
            f"sampling.task_shares names {', '.join(idle)}, but no data has that task; "
            f"there are {', '.join(sorted(set(tasks.values())))}"
        )
    rest = 1.0 - sum(fixed.values())
    others = [group for group in sizes if tasks[group] not in fixed]
    if not others and abs(rest) > 1e-9:
        raise ConfigError(
            f"sampling.task_shares sum to {1 - rest:g} and no other task is left for the rest; "
            "make them sum to 1"
        )
    shares: dict[str, float] = {}
    blocks = [([g for g in sizes if tasks[g] == task], mass) for task, mass in fixed.items()]
    for groups, mass in [*blocks, (others, rest)]:
        powers = {group: float(sizes[group]) ** exponent for group in groups}
        total = sum(powers.values())
        shares.update({group: mass * power / total for group, power in powers.items()})
    return {group: shares[group] for group in sizes}


class BatchSampler:
    """Homogeneous batches in random order. Tails are kept as smaller batches.

    Args:
        mixture: the rows.
        batch_size: rows of a full global batch.
        sampling: which group gives a batch; by default every row comes once in an epoch.
        batch_sizes: by task, where it differs from `batch_size`.
    """

    def __init__(
        self,
        mixture: Mixture,
        batch_size: int,
        sampling: SamplingConfig | None = None,
        *,
        batch_sizes: Mapping[Task, int] | None = None,
    ) -> None:
        self.mixture = mixture
        self.batch_size = batch_size
        self.sampling = sampling or SamplingConfig()
        sizes = batch_sizes or {}
        self._batch_sizes = {
            group: sizes.get(mixture.task(group), batch_size) for group in mixture.groups
        }
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
            for group, count in self._batch_counts(epoch).items()
            for rows in itertools.islice(self._group_batches(group, epoch), count)
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

    def _batch_counts(self, epoch: int) -> dict[str, int | None]:
        """How many batches each group gives in an epoch; None = one pass over its rows."""
        groups = self.mixture.groups
        if self.sampling.exponent is None:
            return dict.fromkeys(groups)
        sizes = {group: len(self.mixture.epoch_rows(group, epoch)) for group in groups}
        shares = group_shares(
            {group: size for group, size in sizes.items() if size},
            {group: self.mixture.task(group) for group in groups},
            exponent=self.sampling.exponent,
            task_shares=dict(self.sampling.task_shares.items()),
        )
        total = math.ceil(sum(size / self._batch_sizes[group] for group, size in sizes.items()))
        # Rounding the running total keeps the sum; an epoch's start is drawn, so that a group
        # with less than one batch in an epoch is not left out of all of them.
        random = np.random.default_rng([self.mixture.seed, _SHARES, epoch])
        begin = random.random()
        counts: dict[str, int | None] = {}
        for group, share in shares.items():
            end = begin + share * total
            counts[group] = int(end) - int(begin)
            begin = end
        return counts

    def _group_batches(self, group: str, epoch: int) -> Iterator[tuple[int, ...]]:
        """One pass over a group's rows; with an exponent, pass after pass without end."""
        for number in itertools.count():
            rows = self.mixture.epoch_rows(group, epoch, number)
            yield from self._without_duplicates(rows, self._batch_sizes[group])
            if self.sampling.exponent is None or not len(rows):
                return

    def _without_duplicates(self, rows: np.ndarray, batch_size: int) -> Iterator[tuple[int, ...]]:
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
                if len(batch) == batch_size:
                    break
                head = waiting[line][0]
                ids = self.mixture.document_ids(head)
                if present.isdisjoint(ids):
                    waiting[line].popleft()
                    batch.append(head)
                    present.update(ids)
                    if not waiting[line]:
                        del waiting[line]
            while fresh and len(batch) < batch_size:
                row = fresh.popleft()
                ids = self.mixture.document_ids(row)
                if present.isdisjoint(ids):
                    batch.append(row)
                    present.update(ids)
                else:
                    shared = next(id_ for id_ in ids if id_ in present)
                    waiting.setdefault(shared, deque()).append(row)
            yield tuple(batch)
