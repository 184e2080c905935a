"""Claims and evidence: what supports a claim is its positive, what refutes it a hard negative.

A row of the source is a claim, one piece of evidence and a label (VitaminC, FEVER with its gold
evidence); rows of one claim become one example. Claims that nothing supports give none.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from data_adapters.cells import shortened
from data_adapters.text.items import drawn, example, item, text, titled
from data_adapters.text.tables import open_split, saved_array, scanned
from mmembed.datasets import DatasetCard
from mmembed.errors import InputError
from mmembed.tables.rows import RowTable
from mmembed.types import ContrastiveExample

__all__ = ["ClaimRows", "load"]

_SUPPORTS, _REFUTES, _NEITHER, _BAD = 0, 1, 2, 3


def load(
    card: DatasetCard,
    folder: Path,
    *,
    table: str = "",
    claim: str = "claim",
    evidence: str = "evidence",
    label: str = "label",
    supports: Sequence[str] = ("SUPPORTS",),
    refutes: Sequence[str] = ("REFUTES",),
    separator: str = " ",
    num_hard_negatives: int | None = None,
    seed: int = 0,
) -> ClaimRows:
    """Claims with their evidence.

    Args:
        table: pattern of the files, if they are not where the hub's layouts have them.
        claim, evidence, label: columns; evidence is a text, or a list of `[title, line, text]`
            that is read as one document.
        supports, refutes: labels; evidence with any other is left out.
        separator: between title and text, and between the pieces of evidence.
        num_hard_negatives: of a claim; None = all.
        seed: of their choice.
    """
    rows = open_split(card, folder, table, [claim, evidence, label])
    kinds = {name: _SUPPORTS for name in supports} | {name: _REFUTES for name in refutes}
    key = f"claims {claim} {label} {sorted(kinds.items())}"
    array = saved_array([rows], key, lambda: _grouped(rows, claim, label, kinds))
    return ClaimRows(
        card,
        rows,
        array,
        columns=(claim, evidence),
        separator=separator,
        num_hard_negatives=num_hard_negatives,
        seed=seed,
    )


def _grouped(table: RowTable, claim: str, label: str, kinds: dict[str, int]) -> np.ndarray:
    """Number of the claim, number of the row and kind, by claim: int64 (rows, 3).

    A row that cannot be read, or has no text for a claim, is a claim of its own.
    """
    numbers: dict[bytes, int] = {}
    found: list[tuple[int, int, int]] = []
    for n, row in scanned(table):
        words = row[claim] if row is not None else None
        if not isinstance(words, str):
            found.append((len(numbers), n, _BAD))
            numbers[b"%d" % n] = len(numbers)
            continue
        name = blake2b(words.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        kind = kinds.get(str(row[label]), _NEITHER) if row is not None else _BAD
        found.append((numbers.setdefault(name, len(numbers)), n, kind))
    array = np.array(found, dtype=np.int64).reshape(-1, 3)
    return array[np.argsort(array[:, 0], kind="stable")]


class ClaimRows:
    """See `mmembed.datasets.ExampleRows`."""

    def __init__(
        self,
        card: DatasetCard,
        table: RowTable,
        array: np.ndarray,
        *,
        columns: tuple[str, str],
        separator: str,
        num_hard_negatives: int | None,
        seed: int,
    ) -> None:
        self.name, self.task = card.name, card.task
        self.revision, self.license = card.revision, card.license
        self._table, self._array = table, array
        self._claim, self._evidence = columns
        self._separator, self._seed = separator, seed
        self._num_hard_negatives = num_hard_negatives
        begins = np.flatnonzero(np.diff(array[:, 0], prepend=-1))
        if len(begins):
            usable = np.isin(array[:, 2], (_SUPPORTS, _BAD))
            has_any = np.logical_or.reduceat(usable, begins)
            ends = np.append(begins[1:], len(array))
            self._begins, self._ends = begins[has_any], ends[has_any]
        else:
            self._begins = self._ends = begins

    @property
    def files(self) -> tuple[Path, ...]:
        return self._table.files

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, index: int) -> ContrastiveExample:
        block = self._block(index)
        first = int(block[0, 1])
        asked = text(self._table[first][self._claim], self._claim, self._table.where(first))
        texts: dict[int, list[str]] = {_SUPPORTS: [], _REFUTES: []}
        for _, number, kind in block.tolist():
            if kind in texts:
                texts[kind].append(self._document(number))
        positives = list(dict.fromkeys(texts[_SUPPORTS]))
        others = [one for one in dict.fromkeys(texts[_REFUTES]) if one not in positives]
        query_id = f"{self.name}/{first}"
        chosen = drawn(others, self._num_hard_negatives, f"{query_id}/{self._seed}")
        return example(self.task, item(asked), positives, chosen, query_id=query_id)

    def where(self, index: int) -> str:
        return self._table.where(int(self._block(index)[0, 1]))

    def _block(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {self.name}; it has {len(self)} rows")
        block: np.ndarray = self._array[self._begins[index] : self._ends[index]]
        return block

    def _document(self, number: int) -> str:
        where = self._table.where(number)
        cell: Any = self._table[number][self._evidence]
        if isinstance(cell, str):
            return text(cell, self._evidence, where)
        pieces = cell if isinstance(cell, list) else []
        if not pieces or not all(isinstance(piece, list) and len(piece) == 3 for piece in pieces):
            raise InputError(
                "invalid_type",
                f"{where}, {self._evidence!r}: found {shortened(cell)}; expected a text or a list "
                "of [title, line, text]",
            )
        return self._separator.join(
            titled(title, text(body, self._evidence, where), self._separator)
            for title, _, body in pieces
        )
