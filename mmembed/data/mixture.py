"""Weights, caps and seeds over adapters -> one indexed set of training rows.

Rows are numbered through all entries. What an epoch takes of them is a function of (seed, epoch)
and nothing else, so there is no random state to save.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mmembed.config.stage import DataConfig
from mmembed.data.adapter import DatasetAdapter, check_example, resolve_adapter
from mmembed.data.row_ids import RowIds
from mmembed.errors import ConfigError, InputError
from mmembed.inputs.contrastive import TrainingRow
from mmembed.types import Task

__all__ = ["Mixture", "MixtureEntry", "build_mixture"]

# Tags that keep the random streams of one seed apart.
_CAP, _POSITIVE, _ORDER = 1, 2, 3


@dataclass(frozen=True)
class MixtureEntry:
    """One adapter in a mixture; the fields of `DataConfig` with defaults filled in."""

    adapter: DatasetAdapter
    name: str
    group: str
    temperature_group: str
    weight: float = 1.0
    cap: int | None = None
    query_instruction: str | None = None
    document_instruction: str | None = None
    max_hard_negatives: int | None = None


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
        """One row as `epoch` uses it: with several positives, one is drawn for each epoch.

        Raises:
            ConfigError: the adapter gives a row that cannot be trained on.
            InputError: the adapter cannot make an item of it.
        """
        number, position = self._locate(index)
        entry = self.entries[number]
        try:
            example = entry.adapter[position]
        except InputError as error:
            raise error.at((entry.name, position)) from None
        check_example(example, f"dataset {entry.name!r}, row {position}")
        positive = 0
        if len(example.positives) > 1:
            random = np.random.default_rng([self.seed, _POSITIVE, epoch, index])
            positive = int(random.integers(len(example.positives)))
        return TrainingRow(
            example=example,
            source=entry.name,
            index=position,
            positive=positive,
            temperature_group=entry.temperature_group,
            query_instruction=entry.query_instruction,
            document_instruction=entry.document_instruction,
            max_hard_negatives=entry.max_hard_negatives,
        )

    def named_rows(self, indices: Iterable[int]) -> dict[str, list[int]]:
        """For people: rows by the name of their entry, as its adapter numbers them."""
        named: dict[str, list[int]] = {}
        for index in indices:
            number, position = self._locate(index)
            named.setdefault(self.entries[number].name, []).append(position)
        return named

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
        """The task of a group's rows; one loss and one sampling share apply to a group.

        Raises:
            ConfigError: its entries have different tasks.
        """
        tasks = {entry.name: entry.adapter.task for entry in self.entries if entry.group == group}
        if len(set(tasks.values())) > 1:
            raise ConfigError(
                f"group {group!r} mixes tasks: "
                + ", ".join(f"{name} is {task}" for name, task in tasks.items())
                + "; a batch has one task, so give each task its own group"
            )
        return next(iter(tasks.values()))

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
    max_hard_negatives: Callable[[Task], int | None] = lambda task: None,
) -> Mixture:
    """Resolve the adapters of a stage.

    Args:
        max_hard_negatives: how many of a row's hard negatives a task uses, the first ones; None =
            all of them.

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
        entries.append(
            MixtureEntry(
                adapter=adapter,
                name=name,
                group=config.group or name,
                temperature_group=config.temperature_group or adapter.task,
                weight=config.weight,
                cap=config.cap,
                query_instruction=config.query_instruction,
                document_instruction=config.document_instruction,
                max_hard_negatives=max_hard_negatives(adapter.task),
            )
        )
    return Mixture(entries, seed=seed)
