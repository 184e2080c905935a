"""Batches: homogeneous, free of duplicates, complete, and restartable from two numbers."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from mmembed.data.mixture import Mixture, MixtureEntry
from mmembed.data.sampler import BatchSampler
from mmembed.errors import ConfigError
from mmembed.types import ContrastiveExample, MultimodalInput


class Rows:
    name, task, revision, license = "rows", "retrieval", "1", "CC0-1.0"

    def __init__(self, size: int, num_documents: int) -> None:
        self.size, self.num_documents = size, num_documents

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
    rows = Rows(size, num_documents or size)
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
