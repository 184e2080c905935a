"""Shares of groups, and which groups meet in a batch."""

from __future__ import annotations

from collections import Counter

import pytest

from mmembed.config.stage import SamplingConfig
from mmembed.data.mixture import Mixture
from mmembed.data.sampler import BatchSampler, group_shares
from mmembed.errors import ConfigError
from tests.data.test_sampler import entry, interleaving


def test_a_share_multiplies_the_probability_of_its_group():
    sizes = {"a": 100, "b": 400, "c": 900}
    tasks = dict.fromkeys(sizes, "retrieval")
    plain = group_shares(sizes, tasks, exponent=0.5)
    assert group_shares(sizes, tasks, exponent=0.5, shares=dict.fromkeys(sizes, 3.0)) == plain
    shares = group_shares(sizes, tasks, exponent=0.0, shares={"a": 10, "b": 5})
    assert list(shares.values()) == pytest.approx([10 / 16, 5 / 16, 1 / 16])
    doubled = group_shares(sizes, tasks, exponent=0.5, shares={"b": 2.0})
    assert doubled["b"] / doubled["a"] == pytest.approx(2 * plain["b"] / plain["a"])
    assert doubled["c"] / doubled["a"] == pytest.approx(plain["c"] / plain["a"])


def test_a_share_changes_how_often_a_group_is_drawn_and_not_its_rows():
    mixture = Mixture([entry("a", 100, share=3.0), entry("b", 100)])
    sampler = BatchSampler(mixture, 5, SamplingConfig(exponent=0.0))
    batches = [batch for epoch in range(5) for batch in sampler.epoch_batches(epoch)]
    counts = Counter(batch.group for batch in batches)
    assert counts["a"] == pytest.approx(3 * counts["b"], abs=5)
    first = [row for batch in sampler.epoch_batches(0) if batch.group == "a" for row in batch.rows]
    assert Counter(first).most_common(1)[0][1] <= 2  # pass after pass, as without a share


def test_sub_batches_of_two_losses_do_not_meet():
    entries = [entry("a", 40), entry("b", 40), entry("x", 40, loss="x"), entry("y", 40, loss="x")]
    mixture = Mixture([*entries, entry("z", 40, loss="z")])
    batches = BatchSampler(mixture, 8, interleaving()).epoch_batches(0)
    for batch in batches:
        assert len({mixture.loss(mixture.group_of(row)) for row in batch.rows}) == 1
    assert {len(batch.rows) for batch in batches if batch.group == "z"} == {8}
    alone = Mixture([entry("a", 9), entry("b", 9, loss="x")])
    with pytest.raises(ConfigError, match=r"no two groups have one task: .* trained by x"):
        BatchSampler(alone, 8, interleaving())
