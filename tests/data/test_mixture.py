"""What an epoch takes of each dataset, and that it is a function of (seed, epoch)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from data_adapters import emoji
from mmembed.config.stage import DataConfig
from mmembed.data.mixture import Mixture, MixtureEntry, build_mixture
from mmembed.errors import ConfigError, InputError
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


class Counting(Rows):
    """Rows that can be taken many at once, and one that cannot be used."""

    def __init__(self, name: str, size: int, bad: int = -1) -> None:
        super().__init__(name, size, positives=2)
        self.bad, self.taken = bad, 0

    def take(self, indices: Sequence[int]) -> list[ContrastiveExample | InputError]:
        self.taken += 1
        error = InputError("corrupt", "line 4")
        return [error if index == self.bad else self[index] for index in indices]


def test_many_rows_are_those_one_by_one():
    a, b = Counting("a", 6, bad=4), Rows("b", 5, positives=3)
    phrasings = {"query_instruction": ("x", "y"), "document_instruction": "z"}
    entries = [MixtureEntry(a, "a", "g", "t", cap=5, **phrasings), MixtureEntry(b, "b", "g", "t")]
    mixture = Mixture(entries, seed=3)
    wanted = [9, 0, 3, 9, 1, 7]
    for epoch in (0, 1):
        found = mixture.rows(wanted, epoch=epoch)
        for index, row in zip(wanted, found, strict=True):
            if isinstance(row, InputError):
                assert row.index == ("a", 4)
                with pytest.raises(InputError, match="line 4"):
                    mixture.row(index, epoch=epoch)
            else:
                assert row == mixture.row(index, epoch=epoch)
    assert any(isinstance(row, InputError) for row in mixture.rows(range(5)))
    assert mixture.rows([]) == []
    with pytest.raises(IndexError):
        mixture.rows([0, len(mixture)])


def test_rows_are_read_at_once_where_the_adapter_can():
    rows = Counting("a", 100)
    Mixture([MixtureEntry(rows, "a", "g", "t")]).rows(range(50))
    assert rows.taken == 1


def test_a_phrasing_is_drawn_for_each_row_and_epoch_and_does_not_depend_on_company():
    phrasings = ("first", "second", "third")
    mixture = Mixture([entry(size=600, query_instruction=phrasings)], seed=1)
    drawn = [[row.query_instruction for row in mixture.rows(range(600), epoch=e)] for e in (0, 1)]
    again = Mixture([entry(size=600, query_instruction=phrasings)], seed=1)
    assert [again.row(index).query_instruction for index in range(600)] == drawn[0]
    assert drawn[0] != drawn[1]
    for each in drawn:  # binomial: 200 +- 5 standard deviations
        assert all(abs(count - 200) < 58 for count in Counter(each).values())
    other = Mixture([entry(size=600, query_instruction=phrasings)], seed=2)
    assert [row.query_instruction for row in other.rows(range(600))] != drawn[0]
    assert all(row.varies and row.document_instruction is None for row in mixture.rows(range(9)))


def test_phrasings_of_the_two_sides_are_drawn_apart():
    both = {"query_instruction": ("a", "b"), "document_instruction": ("a", "b")}
    rows = Mixture([entry(size=100, **both)]).rows(range(100))
    assert 20 < sum(row.query_instruction == row.document_instruction for row in rows) < 80


def test_a_row_varies_only_when_another_epoch_can_use_it_in_another_way():
    assert not Mixture([entry(query_instruction="a")]).row(0).varies
    assert Mixture([entry(positives=2)]).row(0).varies


def test_an_entry_may_have_another_task_and_loss_than_its_adapter():
    mixture = Mixture([entry("a", task="sts", loss="graded"), entry("b", task="qa"), entry("c")])
    assert [mixture.row(index).example.task for index in (0, 10, 20)] == ["sts", "qa", "retrieval"]
    assert [mixture.task(group) for group in mixture.groups] == ["sts", "qa", "retrieval"]
    assert [mixture.loss(group) for group in mixture.groups] == ["graded", "qa", "retrieval"]


@pytest.mark.parametrize(
    ("differs", "message"),
    [
        ({"task": "sts"}, "mixes tasks: a is sts, b is retrieval"),
        ({"loss": "x"}, "mixes losses: a is x, b is retrieval"),
        ({"share": 2.0}, "mixes shares: a is 2.0, b is 1.0"),
    ],
)
def test_a_group_has_one_task_one_loss_and_one_share(differs: dict, message: str):
    mixture = Mixture([entry("a", group="g", **differs), entry("b", group="g")])
    what = next(iter(differs))
    with pytest.raises(ConfigError, match=f"group 'g' {message}"):
        getattr(mixture, what)("g")
    both = Mixture([entry("a", group="g", **differs), entry("b", group="g", **differs)])
    assert getattr(both, what)("g") == differs[what]


def test_settings_reach_the_rows():
    config = DataConfig(
        adapter="tests.data.rows:WordRows",
        task="sts",
        loss="graded",
        share=2.0,
        document_instruction=["a", "b"],
    )
    asked = []
    mixture = build_mixture([config], seed=0, max_hard_negatives=lambda loss: asked.append(loss))
    (built,) = mixture.entries
    assert (built.used_task, built.used_loss, built.share) == ("sts", "graded", 2.0)
    assert built.temperature_group == "sts" and asked == ["graded"]
    assert {row.document_instruction for row in mixture.rows(range(10))} == {"a", "b"}
