"""`on_bad_row: skip`: another row of the group in the place of one that cannot be prepared.

A row is replaced whole, query and positives together, one for one, so batches keep their size.
Which row stands in is a function of the global batch and the place in it. So it is the same
whichever process prepares the row, for any number of processes, and after a resume. What was
skipped is in `skipped.jsonl`, each row once for each epoch: it is written when its batch is used,
and a row that is written there is not tried again, so a fault that comes and goes changes nothing
in a run that is resumed.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.data.sampler import BatchSampler, GlobalBatch
from mmembed.errors import InputError, InputErrorCode
from mmembed.store.durable import write_atomically

__all__ = ["BadRows", "SkippedRow"]

logger = logging.getLogger(__name__)

_SUBSTITUTES = 7  # tag of a random stream; see mmembed.data.mixture
FEWEST_ROWS = 200  # over which the share of bad rows is counted


@dataclass(frozen=True)
class SkippedRow:
    """`number` counts the rows of the mixture, `row` those of the dataset.

    `item` says which of the row's items is bad, e.g. `["positive 0"]`; the rest as in `InputError`.
    """

    epoch: int
    dataset: str
    row: int
    item: Sequence[str | int]
    part: str
    source: str | None
    code: InputErrorCode
    reason: str
    number: int

    def error(self) -> InputError:
        index = (self.dataset, self.row, *self.item)
        return InputError(self.code, self.reason, part=self.part, source=self.source, index=index)


class BadRows:
    """What stands in for bad rows, and the record of them. Thread-safe.

    Args:
        sampler: whose batches are repaired.
        path: the record; an earlier one of the same run is continued.
        max_fraction: of the rows that this process has tried; above it the run stops.
        is_main: whether this process writes the record.
        exchange: joins the bytes of all processes, in their order; called for every batch.
    """

    def __init__(
        self,
        sampler: BatchSampler,
        path: Path,
        *,
        max_fraction: float = 0.05,
        is_main: bool = True,
        exchange: Callable[[bytes], bytes] = lambda lines: lines,
    ) -> None:
        self._sampler = sampler
        self._mixture = sampler.mixture
        self._path = path
        self._max_fraction = max_fraction
        self._is_main = is_main
        self._exchange = exchange
        self._lock = threading.Lock()
        self._tried = 0
        self._met: dict[tuple[int, int], InputError] = {}  # by epoch and row
        self._known: dict[int, InputError] = {}
        self._written: set[tuple[int, int]] = set()
        for skipped in _read(path, mend=is_main):
            self._written.add((skipped.epoch, skipped.number))
            self._known.setdefault(skipped.number, skipped.error())

    @property
    def count(self) -> int:
        """Rows skipped in this run, on all processes."""
        return len(self._written)

    def known(self, row: int) -> InputError | None:
        """Why a row that was skipped before cannot be used."""
        return self._known.get(row)

    def repair(
        self,
        batch: GlobalBatch,
        places: range,
        prepared: Sequence[Any],
        prepare: Callable[[Sequence[int]], list[Any]],
    ) -> tuple[list[Any], list[SkippedRow]]:
        """Prepared rows without errors, and which rows were bad.

        Args:
            places: which of the batch's rows `prepared` are.
            prepare: one prepared row, or its InputError, for each number of a row.

        Raises:
            InputError: more rows are bad than `max_fraction`, or every row that could stand in.
        """
        rows = list(prepared)
        numbers = [batch.rows[place] for place in places]
        skipped: dict[int, SkippedRow] = {}
        others: dict[int, Iterator[int]] = {}
        bad = self._find_bad(rows, range(len(rows)))
        while bad:
            for at in bad:
                skipped[numbers[at]] = self._skip(batch.epoch, numbers[at], rows[at])
                if at not in others:
                    others[at] = self._substitutes(batch, places[at])
                number = next(others[at], None)
                if number is None:
                    raise InputError(
                        rows[at].code,
                        f"{rows[at].detail}; no row of group "
                        f"{self._mixture.group_of(batch.rows[places[at]])!r} that was tried in its "
                        "place can be used either; mend the data",
                        part=rows[at].part,
                        source=rows[at].source,
                        index=rows[at].index,
                    )
                numbers[at] = number
            for at, row in zip(bad, prepare([numbers[at] for at in bad]), strict=True):
                rows[at] = row
            bad = self._find_bad(rows, bad)
        return rows, list(skipped.values())

    def record(self, skipped: Sequence[SkippedRow]) -> None:
        """Write what a used batch skipped. Every process calls it, once for each batch."""
        lines = "".join(json.dumps(asdict(row)) + "\n" for row in skipped)
        fresh: dict[tuple[int, int], SkippedRow] = {}
        for line in self._exchange(lines.encode()).splitlines():
            row = SkippedRow(**json.loads(line))
            if (row.epoch, row.number) not in self._written:
                fresh[row.epoch, row.number] = row
        if not fresh:
            return
        if self._is_main:
            if not self._written:
                first = next(iter(fresh.values()))
                logger.warning("skipped %s; all such rows are in %s", first.error(), self._path)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(row)) + "\n" for row in fresh.values())
        self._written.update(fresh)

    def _find_bad(self, rows: Sequence[Any], among: Sequence[int]) -> list[int]:
        with self._lock:
            self._tried += len(among)
        return [at for at in among if isinstance(rows[at], InputError)]

    def _skip(self, epoch: int, number: int, error: InputError) -> SkippedRow:
        with self._lock:
            self._known.setdefault(number, error)
            self._met[epoch, number] = error
            tried, bad = self._tried, len(self._met)
            first = list(self._met.values())[:3]
        if bad > self._max_fraction * max(tried, FEWEST_ROWS):
            raise InputError(
                error.code,
                f"{bad} of the {tried:,} rows tried so far cannot be used, more than "
                f"max_bad_fraction {self._max_fraction:g} allows: "
                + "; ".join(map(str, first))
                + (" ..." if bad > len(first) else "")
                + ". Mend the data, or raise max_bad_fraction",
            )
        ((dataset, (row,)),) = self._mixture.named_rows([number]).items()
        item = error.index[2:] if isinstance(error.index, tuple) else ()
        return SkippedRow(
            epoch, dataset, row, item, error.part, error.source, error.code, error.detail, number
        )

    def _substitutes(self, batch: GlobalBatch, place: int) -> Iterator[int]:
        """Rows that may stand in, the best first.

        First those that share no document with the batch or with each other, dealt out over the
        places of the batch so that two bad rows do not get the same one. Then those of the other
        places, then any, then rows of the batch itself, whose documents the loss knows as equal.
        """
        mixture = self._mixture
        group = mixture.group_of(batch.rows[place])
        rows = mixture.group_rows(group)
        stream = [_SUBSTITUTES, batch.epoch, batch.number, mixture.groups.index(group)]
        random = np.random.default_rng([mixture.seed, *stream])
        most = min(len(rows), 4 * len(batch.rows) + 64)
        planned = set(batch.rows)
        present = {id_ for row in batch.rows for id_ in self._sampler.ids(row)}
        apart: list[int] = []
        rest: list[int] = []
        for row in rows[random.choice(len(rows), most, replace=False)].tolist():
            if row in planned:
                continue
            ids = self._sampler.ids(row)
            if present.isdisjoint(ids):
                apart.append(row)
                present.update(ids)
            else:
                rest.append(row)
        mine = apart[place :: len(batch.rows)]
        others = sorted(set(apart) - set(mine), key=apart.index)
        same = [row for row in batch.rows if mixture.group_of(row) == group]
        yield from dict.fromkeys([*mine, *others, *rest, *same])


def _read(path: Path, *, mend: bool) -> list[SkippedRow]:
    """The rows of a record, without a last line that a crash cut off; `mend` takes it away."""
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    if mend and len(whole) < len(lines):
        write_atomically(path, b"".join(whole))
    return [SkippedRow(**json.loads(line)) for line in whole]
