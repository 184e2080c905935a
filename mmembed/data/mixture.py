"""Weights, caps and seeds over adapters -> one indexed set of training rows.

Rows are numbered through all entries. What an epoch takes of them is a function of (seed, epoch)
and nothing else, so there is no random state to save.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmembed.config.stage import DataConfig
from mmembed.data.adapter import DatasetAdapter, problem_of, resolve_adapter, take
from mmembed.data.row_ids import RowIds
from mmembed.errors import ConfigError, InputError
from mmembed.inputs.contrastive import TrainingRow
from mmembed.types import ContrastiveExample, Task

__all__ = ["Mixture", "MixtureEntry", "build_mixture"]

# Tags that keep the random streams of one seed apart.
_CAP, _POSITIVE, _ORDER = 1, 2, 3


@dataclass(frozen=True)
class MixtureEntry:
    """One adapter in a mixture; the fields of `DataConfig` with defaults filled in.

    `task` and `loss` are the adapter's task where they are None.
    """

    adapter: DatasetAdapter
    name: str
    group: str
    temperature_group: str
    weight: float = 1.0
    cap: int | None = None
    query_instruction: str | tuple[str, ...] | None = None
    document_instruction: str | tuple[str, ...] | None = None
    max_hard_negatives: int | None = None
    task: Task | None = None
    loss: str | None = None
    share: float = 1.0

    @property
    def used_task(self) -> Task:
        return self.task or self.adapter.task

    @property
    def used_loss(self) -> str:
        return self.loss or self.used_task


class Mixture:
    """Rows 0..len-1 over all entries, after caps."""

    def __init__(self, entries: Sequence[MixtureEntry], *, seed: int = 0) -> None:
        assert entries
        self.entries = tuple(entries)
        self.seed = seed
        self._kept = [self._cap(number) for number in range(len(self.entries))]
        self._starts = np.cumsum([0, *map(len, self._kept)])
        self._ids: dict[tuple[int, bool], RowIds] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.group for entry in self.entries))

    @property
    def temperature_groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.temperature_group for entry in self.entries))

    def row(self, index: int, *, epoch: int = 0) -> TrainingRow:
        """One row as `epoch` uses it: one of several positives, and one of several phrasings of
        an instruction, is drawn for each epoch.

        Raises:
            ConfigError: the adapter gives a row that cannot be trained on.
            InputError: the adapter cannot make an item of it.
        """
        (row,) = self.rows([index], epoch=epoch)
        if isinstance(row, InputError):
            raise row
        return row

    def rows(self, indices: Sequence[int], *, epoch: int = 0) -> list[TrainingRow | InputError]:
        """`row`, or its InputError, for each of many; faster where the adapter has `take`."""
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and not (0 <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"rows {indices} of a mixture of {len(self)} rows")
        rows: list[TrainingRow | InputError] = [None] * len(wanted)  # type: ignore[list-item]
        entries = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in np.unique(entries).tolist():
            entry = self.entries[number]
            places = np.flatnonzero(entries == number)
            positions = self._kept[number][wanted[places] - self._starts[number]].tolist()
            examples = take(entry.adapter, positions)
            of_entry = zip(
                places.tolist(), wanted[places].tolist(), positions, examples, strict=True
            )
            for place, index, position, example in of_entry:
                if isinstance(example, InputError):
                    rows[place] = example.at((entry.name, position))
                else:
                    rows[place] = self._row(entry, index, position, example, epoch)
        return rows

    def _row(
        self,
        entry: MixtureEntry,
        index: int,
        position: int,
        example: ContrastiveExample,
        epoch: int,
    ) -> TrainingRow:
        problem = problem_of(example)
        if problem is not None:
            raise ConfigError(f"dataset {entry.name!r}, row {position} {problem}")
        if entry.task is not None and example.task != entry.task:
            example = replace(example, task=entry.task)
        positive = 0
        varies = len(example.positives) > 1
        if varies:
            random = np.random.default_rng([self.seed, _POSITIVE, epoch, index])
            positive = int(random.integers(len(example.positives)))
        query, document = entry.query_instruction, entry.document_instruction
        if type(query) is tuple:
            query, varies = self._draw(query, f"query {epoch} {index}"), True
        if type(document) is tuple:
            document, varies = self._draw(document, f"document {epoch} {index}"), True
        return TrainingRow(
            example,
            entry.name,
            position,
            positive,
            entry.temperature_group,
            query,  # type: ignore[arg-type]
            document,  # type: ignore[arg-type]
            entry.max_hard_negatives,
            varies,
        )

    def _draw(self, phrasings: tuple[str, ...], what: str) -> str:
        """Each phrasing as often; cheaper than a generator of its own for every row."""
        digest = hashlib.blake2b(f"{self.seed} {what}".encode(), digest_size=8).digest()
        return phrasings[int.from_bytes(digest, "big") % len(phrasings)]

    def named_rows(self, indices: Iterable[int]) -> dict[str, list[int]]:
        """For people: rows by the name of their entry, as its adapter numbers them."""
        named: dict[str, list[int]] = {}
        for index in indices:
            number, position = self._locate(index)
            named.setdefault(self.entries[number].name, []).append(position)
        return named

    def kept_rows(self, number: int) -> np.ndarray:
        """The rows of entry `number` that its cap leaves, as its adapter numbers them."""
        return self._kept[number]

    def group_of(self, index: int) -> str:
        return self.entries[self._locate(index)[0]].group

    def group_rows(self, group: str) -> np.ndarray:
        """All rows of a group, in order."""
        return np.concatenate(
            [
                np.arange(self._starts[number], self._starts[number + 1])
                for number, entry in enumerate(self.entries)
                if entry.group == group
            ]
        )

    def document_ids(self, index: int, *, contents: bool = False) -> tuple[int, ...]:
        """The ids of all positives of a row; rows that share one must not meet in a batch.

        `contents`: see `SamplingConfig.distinct`.
        """
        number, position = self._locate(index)
        known = self._ids.get((number, contents))
        if known is not None:
            return known.of(index - int(self._starts[number]))
        one = np.array([position])  # a whole entry is read only where all of it is compared
        return _row_ids(self.entries[number].adapter, one, contents).of(0)

    def shared_ids(
        self, rows: np.ndarray, *, contents: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ids that each of `rows` shares with another of them, end to end, and (n + 1,) where
        those of each row begin. Most rows have none.
        """
        entries = np.searchsorted(self._starts, rows, side="right") - 1
        flat, owners = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for number in np.unique(entries).tolist():
            mine = np.flatnonzero(entries == number)
            ids, counts = self._ids_of(number, contents).take(rows[mine] - self._starts[number])
            flat.append(ids)
            owners.append(np.repeat(mine, counts))
        ids, owner = np.concatenate(flat), np.concatenate(owners)
        order = np.argsort(ids, kind="stable")
        equal = ids[order][1:] == ids[order][:-1]
        again = np.zeros(len(ids), bool)
        again[order[1:][equal]] = again[order[:-1][equal]] = True
        ids, owner = ids[again], owner[again]
        begins = np.concatenate([[0], np.bincount(owner, minlength=len(rows)).cumsum()])
        return ids[np.argsort(owner, kind="stable")], begins

    def _ids_of(self, number: int, contents: bool) -> RowIds:
        known = self._ids.get((number, contents))
        if known is None:
            known = _row_ids(self.entries[number].adapter, self._kept[number], contents)
            self._ids[number, contents] = known
        return known

    def task(self, group: str) -> Task:
        """The task of a group's rows; one sampling share applies to a group.

        Raises:
            ConfigError: its entries have different tasks.
        """
        task: Task = self._of_group(group, "task", lambda entry: entry.used_task)
        return task

    def loss(self, group: str) -> str:
        """Which loss trains a group's rows: a key of `StageConfig.losses`, or their task.

        Raises:
            ConfigError: its entries name different ones.
        """
        return str(self._of_group(group, "loss", lambda entry: entry.used_loss))

    def share(self, group: str) -> float:
        """See `DataConfig.share`.

        Raises:
            ConfigError: its entries have different ones.
        """
        return float(self._of_group(group, "share", lambda entry: entry.share))

    def _of_group(self, group: str, what: str, value: Callable[[MixtureEntry], Any]) -> Any:
        found = {entry.name: value(entry) for entry in self.entries if entry.group == group}
        if len(set(found.values())) > 1:
            listed = ", ".join(f"{name} is {each}" for name, each in found.items())
            many = {"task": "tasks", "loss": "losses", "share": "shares"}[what]
            raise ConfigError(
                f"group {group!r} mixes {many}: {listed}; a batch has one {what}, so give each "
                f"{what} its own group"
            )
        return next(iter(found.values()))

    def epoch_rows(self, group: str, epoch: int, number: int = 0) -> np.ndarray:
        """The rows of a group that one epoch uses, shuffled; weights are passes over the rows.

        `number` counts the times that an epoch goes through them.
        """
        stream = [self.seed, _ORDER, epoch, self.groups.index(group), number]
        random = np.random.default_rng(stream if number else stream[:-1])
        chosen = []
        for number, entry in enumerate(self.entries):
            if entry.group != group:
                continue
            rows = np.arange(self._starts[number], self._starts[number + 1])
            passes = int(entry.weight)
            chosen += [rows] * passes
            rest = round((entry.weight - passes) * len(rows))
            if rest:
                chosen.append(random.permutation(rows)[:rest])
        return random.permutation(np.concatenate(chosen)) if chosen else np.arange(0)

    def _cap(self, number: int) -> np.ndarray:
        entry = self.entries[number]
        size = len(entry.adapter)
        if entry.cap is None or entry.cap >= size:
            return np.arange(size)
        random = np.random.default_rng([self.seed, _CAP, number])
        return np.sort(random.permutation(size)[: entry.cap])

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a mixture of {len(self)} rows")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, int(self._kept[number][index - self._starts[number]])


def _row_ids(adapter: DatasetAdapter, positions: np.ndarray, contents: bool) -> RowIds:
    make = RowIds.of_contents if contents else RowIds.of_documents
    return make(adapter, positions)


def build_mixture(
    data: Sequence[DataConfig],
    *,
    seed: int,
    max_hard_negatives: Callable[[str], int | None] = lambda loss: None,
) -> Mixture:
    """Resolve the adapters of a stage.

    Args:
        max_hard_negatives: how many of a row's hard negatives a loss uses, the first ones; None =
            all of them. A loss goes by the task or its own name, see `DataConfig.loss`.

    Raises:
        ConfigError: see `resolve_adapter`.
    """
    entries: list[MixtureEntry] = []
    for config in data:
        adapter = resolve_adapter(config.adapter, config.arguments)
        name = config.name or adapter.name
        taken = {entry.name for entry in entries}
        if name in taken:
            numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
            name = next(other for other in numbered if other not in taken)
        task = config.task or adapter.task
        entries.append(
            MixtureEntry(
                adapter=adapter,
                name=name,
                group=config.group or name,
                temperature_group=config.temperature_group or task,
                weight=config.weight,
                cap=config.cap,
                query_instruction=config.query_instruction,
                document_instruction=config.document_instruction,
                max_hard_negatives=max_hard_negatives(config.loss or task),
                task=config.task,
                loss=config.loss,
                share=config.share,
            )
        )
    return Mixture(entries, seed=seed)
