"""Batches: homogeneous, free of duplicates, complete, and restartable from two numbers."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from mmembed.config.stage import SamplingConfig
from mmembed.data.mixture import Mixture, MixtureEntry
from mmembed.data.sampler import BatchSampler, group_shares
from mmembed.errors import ConfigError
from mmembed.types import ContrastiveExample, MultimodalInput

GOLDEN = {
    test["id"]: test
    for test in json.loads(
        (Path(__file__).parent.parent / "golden" / "losses.json").read_text(encoding="utf-8")
    )["tests"]
}


class Rows:
    name, revision, license = "rows", "1", "CC0-1.0"

    def __init__(self, size: int, num_documents: int, task: str = "retrieval") -> None:
        self.size, self.num_documents, self.task = size, num_documents, task

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> ContrastiveExample:
        document = str(index % self.num_documents)
        return ContrastiveExample(
            MultimodalInput.of(f"query {index}"),
            (MultimodalInput.of(document),),
            positive_ids=(document,),
        )


def entry(name: str, size: int, num_documents: int | None = None, **options) -> MixtureEntry:
    rows = Rows(size, num_documents or size, options.pop("task", "retrieval"))
    return MixtureEntry(rows, name, options.pop("group", name), "retrieval", **options)


def test_every_row_is_used_once_and_tails_are_kept():
    sampler = BatchSampler(Mixture([entry("a", 23), entry("b", 11)]), batch_size=5)
    batches = sampler.epoch_batches(0)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(34))
    assert Counter(len(batch.rows) for batch in batches) == {5: 6, 3: 1, 1: 1}


def test_every_batch_comes_from_one_group():
    mixture = Mixture([entry("a", 20), entry("b", 20), entry("c", 20, group="b")])
    for batch in BatchSampler(mixture, batch_size=8).epoch_batches(0):
        groups = {"a": {"a"}, "b": {"b", "c"}}[batch.group]
        assert {mixture.row(row).source for row in batch.rows} <= groups


@pytest.mark.parametrize(("size", "num_documents"), [(100, 60), (100, 7), (40, 1), (64, 64)])
def test_no_document_is_twice_in_a_batch(size: int, num_documents: int):
    mixture = Mixture([entry("a", size, num_documents)])
    batches = BatchSampler(mixture, batch_size=16).epoch_batches(0)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(size))
    for batch in batches:
        documents = [row % num_documents for row in batch.rows]
        assert len(set(documents)) == len(documents) <= 16


def test_duplicates_cost_no_more_batches_than_they_must():
    mixture = Mixture([entry("a", 100, 20)])
    # 20 documents, five rows each: batches of ten can all be full.
    assert len(BatchSampler(mixture, batch_size=10).epoch_batches(0)) <= 12


def test_batches_are_a_function_of_seed_and_epoch():
    def rows(seed: int, epoch: int) -> list:
        return BatchSampler(Mixture([entry("a", 50)], seed=seed), 7).epoch_batches(epoch)

    assert rows(0, 0) == rows(0, 0)
    assert rows(0, 0) != rows(0, 1)
    assert rows(0, 0) != rows(1, 0)


def test_two_numbers_restart_the_stream_of_batches():
    def sampler() -> BatchSampler:
        return BatchSampler(Mixture([entry("a", 23), entry("b", 11)]), batch_size=5)

    straight = list(islice(sampler().batches(), 30))
    cut = straight[12]
    assert list(islice(sampler().batches(cut.epoch, cut.number), 18)) == straight[12:]


def test_batches_of_the_groups_are_interleaved():
    mixture = Mixture([entry("a", 100), entry("b", 100)])
    groups = [batch.group for batch in BatchSampler(mixture, batch_size=5).epoch_batches(0)]
    assert groups != sorted(groups)


def test_weights_that_leave_no_row_are_refused():
    sampler = BatchSampler(Mixture([entry("a", 10, weight=0.01)]), batch_size=5)
    with pytest.raises(ConfigError, match="no rows; raise the weights of a"):
        next(sampler.batches())


def test_shares_are_powers_of_sizes():
    sizes = {"a": 100, "b": 400, "c": 900}
    shares = group_shares(sizes, dict.fromkeys(sizes, "retrieval"), exponent=0.5)
    golden = GOLDEN["sampling_power"]
    assert golden["inputs"]["sizes"] == list(sizes.values())
    assert list(shares.values()) == pytest.approx(golden["expected"]["p"], abs=1e-8)


def test_a_task_can_have_a_fixed_share():
    golden = GOLDEN["sampling_eta"]
    inputs, expected = golden["inputs"], golden["expected"]
    sizes = dict(zip("abcd", inputs["ret_sizes"] + inputs["other_sizes"], strict=True))
    tasks = {"a": "retrieval", "b": "retrieval", "c": "sts", "d": "classification"}
    shares = group_shares(
        sizes, tasks, exponent=inputs["alpha"], task_shares={"retrieval": inputs["eta_ret"]}
    )
    assert list(shares.values()) == pytest.approx(expected["p_ret"] + expected["p_other"], abs=1e-8)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_groups_give_batches_by_their_share(exponent: float):
    mixture = Mixture([entry("a", 400), entry("b", 100), entry("c", 25)], seed=3)
    sampler = BatchSampler(mixture, 5, SamplingConfig(exponent=exponent))
    counts: Counter[str] = Counter()
    for epoch in range(20):
        batches = sampler.epoch_batches(epoch)
        assert len(batches) == 105  # as many as one pass over all rows
        counts.update(batch.group for batch in batches)
    total = sum(size**exponent for size in (400, 100, 25))
    for group, size in {"a": 400, "b": 100, "c": 25}.items():
        # each epoch rounds a group by less than one batch
        assert abs(counts[group] / 20 - 105 * size**exponent / total) < 1


def test_a_group_smaller_than_its_share_comes_again_in_another_order():
    sampler = BatchSampler(
        Mixture([entry("a", 90), entry("b", 10)]), 5, SamplingConfig(exponent=0.0)
    )
    rows = [row for b in sampler.epoch_batches(0) if b.group == "b" for row in b.rows]
    assert len(rows) == 50 and set(Counter(rows).values()) == {5}
    assert rows[:10] != rows[10:20]


def test_sampled_epochs_are_a_function_of_seed_and_epoch():
    def batches() -> list[object]:
        mixture = Mixture([entry("a", 30), entry("b", 7)], seed=5)
        return BatchSampler(mixture, 4, SamplingConfig(exponent=0.3)).epoch_batches(2)

    assert batches() == batches()


def test_a_share_for_a_task_without_data_is_refused():
    mixture = Mixture([entry("a", 30)])
    sampling = SamplingConfig(exponent=1.0, task_shares={"sts": 0.3})
    with pytest.raises(ConfigError, match="names sts, but no data has that task; there are retr"):
        BatchSampler(mixture, 4, sampling).epoch_batches(0)


def test_a_rest_without_tasks_is_refused():
    sampling = SamplingConfig(exponent=1.0, task_shares={"retrieval": 0.7})
    with pytest.raises(ConfigError, match=r"sum to 0\.7 and no other task is left"):
        BatchSampler(Mixture([entry("a", 30)]), 4, sampling).epoch_batches(0)


def test_a_group_of_two_tasks_is_refused():
    mixture = Mixture([entry("a", 9, group="g"), entry("b", 9, group="g", task="sts")])
    with pytest.raises(ConfigError, match="group 'g' mixes tasks: a is retrieval, b is sts"):
        mixture.task("g")
