"""A text and its label: classification and clustering sets, as labels or as examples.

Two transforms: `label`, a text to the words of its label among those of other labels, and
`example`, a text to another text of its label among texts of others, which has the same
instruction on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeAlias

import numpy as np

from data_adapters.catalog import find_entry
from data_adapters.cells import shortened
from data_adapters.text.items import example, item, text, titled
from data_adapters.text.tables import beside, open_split, saved_array, scanned
from mmembed.datasets import DatasetCard
from mmembed.errors import ConfigError, DataError, InputError
from mmembed.tables.rows import RowTable
from mmembed.types import ContrastiveExample

__all__ = ["ClassRows", "load"]

FORMS = ("example", "label")
_Drawn: TypeAlias = tuple[str, list[str], list[str]]  # positive, negatives, their labels


def load(
    card: DatasetCard,
    folder: Path,
    *,
    table: str = "",
    form: Literal["example", "label"] = "example",
    body: str = "text",
    title: str = "",
    label: str = "label",
    label_text: str = "label_text",
    labels: Mapping[str, str] | None = None,
    borrow: Sequence[str] = (),
    num_hard_negatives: int = 7,
    separator: str = " ",
    seed: int = 0,
) -> ClassRows:
    """Texts of a few classes.

    Args:
        table: pattern of the files, if they are not where the hub's layouts have them.
        form: `example` or `label`; see above.
        body, title: columns of a text.
        label: column of the class, a text or a whole number.
        label_text: column of the words of the class, where there is one.
        labels: words of each class, if no column has them.
        borrow: names of other data sets of this layout, beside this one, whose labels fill up the
            hard negatives of `label` where this one has too few.
        num_hard_negatives: of a row; of different classes as long as there are any.
        separator: between title and text.
        seed: of the draws; they depend on it and on the row.
    """
    if form not in FORMS:
        raise ConfigError(f"form is {form!r}; it must be one of: {', '.join(FORMS)}")
    if num_hard_negatives < 0:
        raise ConfigError(f"num_hard_negatives is {num_hard_negatives}; it must be 0 or more")
    rows = open_split(card, folder, table)
    classes = _Classes(card, rows, body, label, label_text, labels or {})
    lent = [words for name in borrow for words in _lent(name, card, folder)]
    return ClassRows(
        card,
        rows,
        classes,
        form=form,
        body=body,
        title=title,
        separator=separator,
        borrowed=lent,
        num_hard_negatives=num_hard_negatives,
        seed=seed,
    )


def _lent(name: str, card: DatasetCard, folder: Path) -> list[str]:
    """The words of the labels of another data set."""
    entry = find_entry(name)
    place = beside(folder, entry.place)
    if entry.family != "text.classes" or place is None:
        raise DataError(
            f"data set {card.name!r} borrows labels of {name!r}, which "
            + ("has none" if place else f"is not beside {folder}; mmembed data fetch {name}")
        )
    rows = entry.load(entry.card, place, **{**entry.options, "form": "example", "borrow": ()})
    assert isinstance(rows, ClassRows)
    return rows.classes.words


class _Classes:
    """Classes of the rows of a table.

    Attributes:
        codes: class of each row, numbers in the order of first rows; -1 for a row that has none.
        order, bounds: rows of class c are `order[bounds[c]:bounds[c + 1]]`.
        names: what rows have for `label` and `negative_labels`: the words, or `data set/label`.
    """

    def __init__(
        self,
        card: DatasetCard,
        table: RowTable,
        body: str,
        label: str,
        label_text: str,
        labels: Mapping[str, str],
    ) -> None:
        self._card, self._label, self._label_text, self._labels = card, label, label_text, labels
        self.codes = saved_array(
            [table], f"classes {body} {label}", lambda: _codes(table, body, label)
        )
        self.order = np.argsort(self.codes, kind="stable")
        known = self.codes[self.codes >= 0]
        sizes = np.bincount(known)
        self.bounds = np.cumsum([len(self.codes) - len(known), *sizes])
        firsts = [table[int(self.order[begin])] for begin in self.bounds[:-1]]
        self._words = [self._words_of(row) for row in firsts]
        self.names = [
            words or f"{card.name}/{row[label]}"
            for words, row in zip(self._words, firsts, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def words(self) -> list[str]:
        """Raises ConfigError for a data set whose labels are only numbers."""
        nameless = [name for name, words in zip(self.names, self._words, strict=True) if not words]
        if nameless:
            raise ConfigError(
                f"data set {self._card.name!r} has no words for the labels "
                f"{', '.join(nameless[:10])}; give labels: {{number: words}}, or form: example"
            )
        return [words for words in self._words if words]

    def _words_of(self, row: Mapping[str, Any]) -> str | None:
        cell = row[self._label]
        written = row.get(self._label_text)
        if isinstance(written, str) and written.strip():
            return written
        if str(cell) in self._labels:
            return self._labels[str(cell)]
        return cell if isinstance(cell, str) and not cell.strip("-").isdecimal() else None

    def size(self, code: int) -> int:
        return int(self.bounds[code + 1] - self.bounds[code])

    def another(self, code: int, number: int, rng: Random) -> int:
        """Any other row of the class of a row."""
        begin, end = int(self.bounds[code]), int(self.bounds[code + 1])
        own = begin + int(np.searchsorted(self.order[begin:end], number))
        drawn = rng.randrange(begin, end - 1)
        return int(self.order[drawn + (drawn >= own)])

    def rows(self, code: int, most: int, rng: Random) -> list[int]:
        """Up to `most` different rows of a class."""
        begin, end = int(self.bounds[code]), int(self.bounds[code + 1])
        drawn = rng.sample(range(begin, end), min(most, end - begin))
        return [int(self.order[place]) for place in drawn]

    def others(self, code: int, most: int, rng: Random) -> list[int]:
        """Up to `most` different classes, in any order."""
        drawn = rng.sample(range(len(self) - 1), min(most, len(self) - 1))
        return [other + (other >= code) for other in drawn]


def _codes(table: RowTable, body: str, label: str) -> np.ndarray:
    numbers: dict[str, int] = {}
    codes = np.full(len(table), -1, dtype=np.int32)
    for n, row in scanned(table):
        if row is None:
            continue
        words, cell = row.get(body), row.get(label)
        if isinstance(words, str) and words.strip():
            if isinstance(cell, str | int) and str(cell).strip():
                codes[n] = numbers.setdefault(str(cell), len(numbers))
    return codes


class ClassRows:
    """See `mmembed.datasets.ExampleRows`. Under `example`, a text alone in its class is absent."""

    def __init__(
        self,
        card: DatasetCard,
        table: RowTable,
        classes: _Classes,
        *,
        form: str,
        body: str,
        title: str,
        separator: str,
        borrowed: Sequence[str],
        num_hard_negatives: int,
        seed: int,
    ) -> None:
        self.name, self.task = card.name, card.task
        self.revision, self.license = card.revision, card.license
        self.classes = classes
        self._table, self._form, self._seed = table, form, seed
        self._body, self._title, self._separator = body, title, separator
        self._num_hard_negatives = num_hard_negatives
        self._rows = np.arange(len(table))
        if form == "example":
            is_alone = np.array([classes.size(code) == 1 for code in range(len(classes))] + [False])
            self._rows = np.flatnonzero(~is_alone[classes.codes])  # -1 is the last: not alone
        self._words = classes.words if form == "label" else []
        self._borrowed = [words for words in dict.fromkeys(borrowed) if words not in self._words]

    @property
    def files(self) -> tuple[Path, ...]:
        return self._table.files

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ContrastiveExample:
        number = self._number(index)
        words = self._text(number)
        code = int(self.classes.codes[number])
        if code < 0:
            raise InputError(
                "invalid_type",
                f"{self._table.where(number)}: found {shortened(self._table[number])}; expected a "
                "text with a label",
            )
        query_id = f"{self.name}/{number}"
        rng = Random(f"{query_id}/{self._seed}")
        draw = self._of_labels if self._form == "label" else self._of_examples
        positive, negatives, names = draw(number, code, rng)
        return example(
            self.task,
            item(words),
            [positive],
            negatives,
            query_id=query_id,
            label=self.classes.names[code],
            negative_labels=tuple(names),
        )

    def where(self, index: int) -> str:
        return self._table.where(self._number(index))

    def _of_labels(self, number: int, code: int, rng: Random) -> _Drawn:
        others = self.classes.others(code, self._num_hard_negatives, rng)
        negatives = [self._words[other] for other in others]
        missing = min(self._num_hard_negatives - len(negatives), len(self._borrowed))
        negatives += rng.sample(self._borrowed, missing)
        return self._words[code], negatives, negatives

    def _of_examples(self, number: int, code: int, rng: Random) -> _Drawn:
        positive = self.classes.another(code, number, rng)
        others = self.classes.others(code, self._num_hard_negatives, rng)
        chosen = [
            (row, other)
            for place, other in enumerate(others)
            for row in self.classes.rows(
                other, len(range(place, self._num_hard_negatives, len(others))), rng
            )
        ]
        return (
            self._text(positive),
            [self._text(row) for row, _ in chosen],
            [self.classes.names[other] for _, other in chosen],
        )

    def _number(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {self.name}; it has {len(self)} rows")
        return int(self._rows[index])

    def _text(self, number: int) -> str:
        row, where = self._table[number], self._table.where(number)
        words = text(row.get(self._body), self._body, where)
        return titled(row.get(self._title), words, self._separator) if self._title else words
