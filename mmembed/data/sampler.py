"""Global batches of row numbers: one group in each batch, no document twice in a batch.

RzenEmbed 3.4.2 takes every batch from one dataset (so negatives are of one kind), with its
image-classification sets merged into one; a `group` here is either. How many batches a group gives
is its share of the rows, or follows `SamplingConfig` (mT5 and GTE's size^exponent; QZhou's fixed
mass for retrieval). VLM2Vec-V2 puts homogeneous sub-batches of several datasets side by side in a
batch and contrasts across all of it.

An epoch's batches are a function of (seed, epoch), so the state of the sampler is two numbers,
(epoch, batch). Batches are global; each process takes its share, so they do not depend on the
number of processes. Planning reads no row where adapters have `document_ids`: 1 million rows took
2.9 s of processor time at the start and 0.7 s for each further epoch, 3 s where each document
comes twice.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmembed.config.stage import SamplingConfig
from mmembed.data.mixture import Mixture
from mmembed.errors import ConfigError
from mmembed.types import Task

__all__ = ["BatchSampler", "GlobalBatch", "group_shares"]

_BATCH_ORDER, _SHARES, _SUB_BATCHES = 4, 5, 6  # tags of random streams; see mmembed.data.mixture


@dataclass(frozen=True)
class GlobalBatch:
    """The rows of one step on all processes together.

    `group` is that of the first row; groups of other sub-batches have the same task and loss.
    """

    epoch: int
    number: int
    group: str
    rows: tuple[int, ...]

    def is_split(self, world_size: int) -> bool:
        """Whether processes share the rows; fewer rows than processes are on all of them."""
        return len(self.rows) >= world_size

    def share(self, rank: int, world_size: int) -> range:
        """Which places in `rows` a process prepares: slices in the order of the ranks, or all."""
        if not self.is_split(world_size):
            return range(len(self.rows))
        share, rest = divmod(len(self.rows), world_size)
        begin = rank * share + min(rank, rest)
        return range(begin, begin + share + (rank < rest))


def group_shares(
    sizes: Mapping[str, int],
    tasks: Mapping[str, str],
    *,
    exponent: float,
    task_shares: Mapping[str, float] | None = None,
    shares: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """The probability of each group: share * size^exponent / sum, inside fixed shares of tasks.

    Args:
        sizes, tasks: rows and task of each group.
        shares: of groups; 1 for those that are not named.
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
    drawn: dict[str, float] = {}
    blocks = [([g for g in sizes if tasks[g] == task], mass) for task, mass in fixed.items()]
    for groups, mass in [*blocks, (others, rest)]:
        powers = {
            group: (shares or {}).get(group, 1.0) * float(sizes[group]) ** exponent
            for group in groups
        }
        total = sum(powers.values())
        drawn.update({group: mass * power / total for group, power in powers.items()})
    return {group: drawn[group] for group in sizes}


class BatchSampler:
    """Homogeneous batches in random order. Tails are kept as smaller batches.

    Args:
        mixture: the rows.
        batch_size: rows of a full global batch.
        sampling: which group gives a batch; by default every row comes once in an epoch.
        batch_sizes: by task, where it differs from `batch_size`.

    Raises:
        ConfigError: `sampling.sub_batch_size` does not fit the groups or the batch sizes.
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
        # How many sub-batches make a batch; 1 = a batch is one homogeneous whole.
        self._parts = dict.fromkeys(mixture.groups, 1) | self._interleaved_groups()
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
        drawn = list(self._interleaved(drawn, epoch))
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

    def ids(self, row: int) -> tuple[int, ...]:
        """What no other row of its batch has."""
        return self.mixture.document_ids(row, contents=self._contents)

    @property
    def _contents(self) -> bool:
        return self.sampling.distinct == "contents"

    def _interleaved_groups(self) -> dict[str, int]:
        size = self.sampling.sub_batch_size
        if size is None:
            return {}
        kinds = defaultdict(list)
        for group in self.mixture.groups:
            kinds[self._kind(group)].append(group)
        several = [group for groups in kinds.values() if len(groups) > 1 for group in groups]
        if not several:
            raise ConfigError(
                "sampling.sub_batch_size puts sub-batches of several groups into a batch, and they "
                "must have one task and one loss; no two groups have one task: "
                + ", ".join(
                    f"{groups[0]} is {task}" + (f", trained by {loss}" if loss != task else "")
                    for (task, loss), groups in kinds.items()
                )
            )
        for group in several:
            if self._batch_sizes[group] % size:
                raise ConfigError(
                    f"sampling.sub_batch_size is {size}, which does not divide the batch size "
                    f"{self._batch_sizes[group]} of {self.mixture.task(group)}"
                )
        return {group: self._batch_sizes[group] // size for group in several}

    def _kind(self, group: str) -> tuple[Task, str]:
        """What groups must have in common to meet in a batch."""
        return self.mixture.task(group), self.mixture.loss(group)

    def _batch_counts(self, epoch: int) -> dict[str, int | None]:
        """How many (sub-)batches each group gives in an epoch; None = one pass over its rows."""
        groups = self.mixture.groups
        if self.sampling.exponent is None:
            return dict.fromkeys(groups)
        sizes = {group: len(self.mixture.epoch_rows(group, epoch)) for group in groups}
        shares = group_shares(
            {group: size for group, size in sizes.items() if size},
            {group: self.mixture.task(group) for group in groups},
            exponent=self.sampling.exponent,
            task_shares=dict(self.sampling.task_shares.items()),
            shares={group: self.mixture.share(group) for group in groups},
        )
        total = math.ceil(sum(size / self._batch_sizes[group] for group, size in sizes.items()))
        # Rounding the running total keeps the sum; an epoch's start is drawn, so that a group
        # with less than one batch in an epoch is not left out of all of them.
        random = np.random.default_rng([self.mixture.seed, _SHARES, epoch])
        begin = random.random()
        counts: dict[str, int | None] = {}
        for group, share in shares.items():
            end = begin + share * total * self._parts[group]
            counts[group] = int(end) - int(begin)
            begin = end
        return counts

    def _group_batches(self, group: str, epoch: int) -> Iterator[tuple[int, ...]]:
        """One pass over a group's rows; with an exponent, pass after pass without end."""
        size = self._batch_sizes[group] // self._parts[group]
        for number in itertools.count():
            rows = self.mixture.epoch_rows(group, epoch, number)
            shared = self.mixture.shared_ids(rows, contents=self._contents)
            for places in _apart(*shared, size):
                yield tuple(rows[places].tolist())
            if self.sampling.exponent is None or not len(rows):
                return

    def _interleaved(
        self, drawn: Sequence[tuple[str, tuple[int, ...]]], epoch: int
    ) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Whole batches as they are; sub-batches of one kind in random order, side by side."""
        kinds: dict[tuple[Task, str], list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
        for group, rows in drawn:
            if self._parts[group] == 1:
                yield group, rows
            else:
                kinds[self._kind(group)].append((group, rows))
        random = np.random.default_rng([self.mixture.seed, _SUB_BATCHES, epoch])
        for subs in kinds.values():
            subs = [subs[number] for number in random.permutation(len(subs))]
            ends = np.cumsum([0, *(len(rows) for _, rows in subs)])
            ids, begins = self.mixture.shared_ids(
                np.concatenate([rows for _, rows in subs]), contents=self._contents
            )
            groups = [group for group, _ in subs]
            for places in _apart(ids, begins[ends], self._parts[groups[0]], groups):
                yield groups[places[0]], tuple(row for place in places for row in subs[place][1])


def _apart(
    ids: np.ndarray, begins: np.ndarray, size: int, lines: Sequence[Hashable] | None = None
) -> Iterator[list[int]]:
    """Cut n things into batches of places; one with an id that is in the batch already waits.

    Waiting ones stand in line behind the id they share, or in the line that `lines` names, and each
    batch takes at most one from each line: linear in n, however often an id occurs. Stretches
    without ids are taken as they are.

    Args:
        ids, begins: see `Mixture.shared_ids`.
    """
    num, flat, starts = len(begins) - 1, ids.tolist(), begins.tolist()
    marked = np.append(np.flatnonzero(np.diff(begins)), num).tolist()  # places that have ids
    waiting: dict[Hashable, deque[int]] = {}
    at = next_marked = 0
    while at < num or waiting:
        batch: list[int] = []
        present: set[int] = set()
        for line in list(waiting):
            if len(batch) == size:
                break
            head = waiting[line][0]
            own = flat[starts[head] : starts[head + 1]]
            if present.isdisjoint(own):
                waiting[line].popleft()
                batch.append(head)
                present.update(own)
                if not waiting[line]:
                    del waiting[line]
        while at < num and len(batch) < size:
            if at < marked[next_marked]:
                stop = min(at + size - len(batch), marked[next_marked])
                batch += range(at, stop)
                at = stop
                continue
            own = flat[starts[at] : starts[at + 1]]
            if present.isdisjoint(own):
                batch.append(at)
                present.update(own)
            else:
                line = lines[at] if lines else next(id_ for id_ in own if id_ in present)
                waiting.setdefault(line, deque()).append(at)
            at += 1
            next_marked += 1
        yield batch
