"""What an epoch takes of each dataset, and that it is a function of (seed, epoch)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from data_adapters import emoji
from mmembed.data.mixture import Mixture, MixtureEntry
from mmembed.types import ContrastiveExample, MultimodalInput


class Rows:
    task, revision, license = "retrieval", "1", "CC0-1.0"

    def __init__(self, name: str, size: int, positives: int = 1) -> None:
        self.name, self.size, self.positives = name, size, positives

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> ContrastiveExample:
        return ContrastiveExample(
            MultimodalInput.of(f"query {index}"),
            tuple(MultimodalInput.of(f"document {index} {n}") for n in range(self.positives)),
        )


def entry(name: str = "a", size: int = 10, positives: int = 1, **options) -> MixtureEntry:
    rows = Rows(name, size, positives)
    return MixtureEntry(rows, name, options.pop("group", name), "retrieval", **options)


def sources(mixture: Mixture, rows: Sequence[int]) -> Counter:
    return Counter((mixture.row(int(row)).source, mixture.row(int(row)).index) for row in rows)


def test_weight_is_the_number_of_passes_over_the_rows():
    mixture = Mixture([entry("a", weight=2.0), entry("b", weight=0.5), entry("c")])
    assert set(sources(mixture, mixture.epoch_rows("a", 0)).values()) == {2}
    assert len(mixture.epoch_rows("a", 0)) == 20
    assert len(set(mixture.epoch_rows("b", 0).tolist())) == 5
    assert sorted(mixture.epoch_rows("c", 0)) == list(range(20, 30))


def test_entries_of_one_group_are_shuffled_together():
    mixture = Mixture([entry("a", group="all"), entry("b", group="all")])
    assert mixture.groups == ("all",)
    assert sorted(mixture.epoch_rows("all", 0)) == list(range(20))


def test_cap_keeps_the_same_random_rows_in_every_epoch():
    mixture = Mixture([entry(size=100, cap=10)], seed=3)
    first, second = (sources(mixture, mixture.epoch_rows("a", epoch)) for epoch in (0, 1))
    assert first == second
    assert len(first) == 10
    assert max(index for _, index in first) > 10
    assert sources(Mixture([entry(size=100, cap=10)], seed=4), range(10)) != first


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[int]:
        return Mixture([entry()], seed=seed).epoch_rows("a", epoch).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_one_positive_is_drawn_for_each_epoch():
    mixture = Mixture([entry(positives=4)])
    drawn = [[mixture.row(row, epoch=epoch).positive for row in range(10)] for epoch in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert len(set(drawn[0])) > 1


def test_document_ids_cover_all_positives_of_a_row():
    mixture = Mixture([entry(positives=3)])
    ids = mixture.document_ids(2)
    assert len(set(ids)) == 3
    assert not set(ids) & set(mixture.document_ids(3))


@pytest.mark.parametrize("index", [-1, 10])
def test_row_outside_the_mixture_is_refused(index: int):
    with pytest.raises(IndexError):
        Mixture([entry()]).row(index)


def test_rows_of_the_second_dataset_start_behind_the_first():
    mixture = Mixture([entry("a", 3), entry("b", 4)])
    assert (mixture.row(3).source, mixture.row(3).index) == ("b", 0)
    assert len(mixture) == 7
    assert np.array_equal(np.sort(mixture.epoch_rows("b", 0)), np.arange(3, 7))


@pytest.mark.parametrize("name", [name for name in emoji.__all__ if name.startswith("Emoji")])
def test_planned_document_ids_are_those_of_the_rows(name: str):
    rows = getattr(emoji, name)(views=2, augment=0.5)
    for index in (0, 5, len(rows) - 1):
        assert rows.document_ids(index) == rows[index].positive_ids
    planned = Mixture([MixtureEntry(rows, rows.name, "all", "retrieval")])
    read = Mixture([MixtureEntry(_WithoutPlan(rows), rows.name, "all", "retrieval")])
    assert planned.document_ids(5) == read.document_ids(5)


class _WithoutPlan:
    task, revision, license, name = "retrieval", "1", "x", "rows"

    def __init__(self, rows: Sequence[ContrastiveExample]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> ContrastiveExample:
        return self.rows[index]
