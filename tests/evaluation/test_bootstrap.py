"""Resampling against slow loops, closed forms and simulated coverage."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from mmembed.errors import DataError
from mmembed.evaluation.bootstrap import (
    NUM_REPLICATES,
    Interval,
    correlation_replicates,
    interval,
    mean_replicates,
    p_value,
    paired_replicates,
    query_values,
    random_stream,
    task_interval,
    task_replicates,
)
from mmembed.evaluation.metrics import spearman
from mmembed.evaluation.results import TIES, QueryResult, TaskResult
from tests.evaluation.made_up_runs import card, hits, result


def pairs(cosines, targets) -> TaskResult:
    of = card("pairs", "text", "STS", main_metric="spearman")
    value = spearman(np.asarray(cosines), np.asarray(targets))
    queries = tuple(
        QueryResult(f"p{row}", dict.fromkeys(TIES, float(cosine)), target=float(target))
        for row, (cosine, target) in enumerate(zip(cosines, targets, strict=True))
    )
    metrics = {ties: {"spearman": value} for ties in TIES}
    return TaskResult(of, metrics, len(queries), len(queries), queries=queries)


def test_replicates_are_distributed_as_those_of_a_loop():
    """Compared with index by index resampling: mean, spread and quantiles."""
    values = np.random.default_rng(0).beta(2, 1, 40).round(2)
    fast = mean_replicates(values, np.random.default_rng(1), 20_000)
    slow_stream = np.random.default_rng(2)
    slow = np.array([values[slow_stream.integers(0, 40, 40)].mean() for _ in range(20_000)])
    spread = values.std() / math.sqrt(40)  # the exact standard deviation of a replicate
    assert fast.mean() == pytest.approx(values.mean(), abs=4 * spread / math.sqrt(20_000))
    assert fast.std() == pytest.approx(spread, rel=0.03)
    for share in (0.025, 0.25, 0.75, 0.975):
        assert np.quantile(fast, share) == pytest.approx(np.quantile(slow, share), abs=spread / 10)


def test_replicates_of_hits_are_binomial():
    values = np.array(hits(30, 0.2))
    found = mean_replicates(values, np.random.default_rng(0), 50_000) * 30
    for k in (2, 6, 11):
        exact = math.comb(30, k) * 0.2**k * 0.8 ** (30 - k)
        share = np.mean(np.isclose(found, k))
        assert share == pytest.approx(exact, abs=4 * math.sqrt(exact / 50_000))


def test_the_interval_of_a_large_task_is_that_of_the_normal_distribution():
    found = task_interval(result("a", hits(4000, 0.3)))
    half = NormalDist().inv_cdf(0.975) * math.sqrt(0.3 * 0.7 / 4000)
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half), abs=half / 20)


def test_intervals_of_simulated_tasks_cover_the_truth_as_often_as_they_say():
    """400 tasks of 200 queries with a true rate of 0.6; a percentile interval of a binomial covers
    close to 95 %, and the count of those that do is binomial itself."""
    truth, tasks = 0.6, 400
    stream = np.random.default_rng(5)
    covered = 0
    for number in range(tasks):
        values = (stream.random(200) < truth).astype(float)
        drawn = mean_replicates(values, random_stream(f"t{number}"), 1000)
        found = interval(drawn)
        covered += found.low <= truth <= found.high
    spread = math.sqrt(tasks * 0.95 * 0.05)
    assert abs(covered - 0.95 * tasks) < 4 * spread


def test_equal_runs_differ_by_nothing_and_never_significantly():
    for values in (hits(100, 0.4), [0.0] * 50, [0.3] * 10, [1.0]):
        one = result("a", values)
        drawn = paired_replicates(one, one)
        assert not drawn.any()
        assert p_value(drawn, 0.0, 0) == 1.0


def test_p_is_uniform_when_nothing_differs():
    """Two runs of one rate: about 5 % of the p-values are under 0.05."""
    stream = np.random.default_rng(11)
    low = 0
    for number in range(400):
        differences = (stream.random(300) < 0.5).astype(float) - (stream.random(300) < 0.5)
        drawn = mean_replicates(differences, random_stream(str(number)), 1000)
        low += p_value(drawn, differences.mean(), 150) < 0.05
    assert abs(low - 20) < 4 * math.sqrt(400 * 0.05 * 0.95)


def test_pairing_finds_what_two_intervals_hide():
    """Five points lost on the same 400 queries: the intervals overlap, the differences do not."""
    before = result("a", hits(400, 0.5))
    after = result("a", hits(400, 0.45))
    assert task_interval(after).high > task_interval(before).low
    drawn = paired_replicates(before, after)
    assert interval(drawn).high < 0
    assert p_value(drawn, -0.05, 20) < 0.001


def test_a_task_draws_the_same_numbers_wherever_it_stands():
    one = result("a", hits(60, 0.3))
    assert (task_replicates(one) == task_replicates(one)).all()
    assert (task_replicates(one) != task_replicates(one, seed=1)).any()
    other = replace(one, card=card("b"))
    assert (task_replicates(one) != task_replicates(other)).any()
    assert task_replicates(one).shape == (NUM_REPLICATES,)


def test_blocks_of_replicates_are_the_whole(monkeypatch):
    values = np.arange(30) / 30
    monkeypatch.setattr("mmembed.evaluation.bootstrap._CHUNK", 300)
    found = mean_replicates(values, np.random.default_rng(3), 1001)
    assert np.isfinite(found).all() and len(found) == 1001
    assert found.mean() == pytest.approx(values.mean(), abs=0.01)


def test_correlations_of_draws_are_those_of_a_loop():
    """Ties on both sides; every replicate is recomputed from its draw, pair by pair."""
    stream = np.random.default_rng(0)
    targets = stream.integers(0, 5, 40).astype(float)
    side = (targets + stream.normal(0, 2, 40)).round(0)
    found = correlation_replicates([side, -side], targets, np.random.default_rng(7), 200)
    drawn = np.random.default_rng(7).multinomial(40, np.full(40, 1 / 40), size=200)
    for row, counts in enumerate(drawn):
        rows = np.repeat(np.arange(40), counts)
        assert found[0, row] == pytest.approx(spearman(side[rows], targets[rows]), abs=1e-12)
    assert found[1] == pytest.approx(-found[0])


def test_a_correlation_of_equal_targets_is_zero():
    found = correlation_replicates([np.arange(5.0)], np.ones(5), np.random.default_rng(0), 10)
    assert not found.any()


def test_pairs_have_an_interval_around_their_correlation():
    stream = np.random.default_rng(3)
    targets = stream.random(300)
    judged = pairs(targets + stream.normal(0, 0.2, 300), targets)
    found = task_interval(judged)
    assert found.low < judged.value() < found.high
    # Fisher's z: the variance of atanh(r) is about 1 / (n - 3), a little more for ranks
    half = NormalDist().inv_cdf(0.975) * 1.06 / math.sqrt(297)
    z = math.atanh(judged.value())
    assert (found.low, found.high) == pytest.approx(
        (math.tanh(z - half), math.tanh(z + half)), abs=0.02
    )


def test_pairs_are_compared_over_the_same_draws():
    stream = np.random.default_rng(4)
    targets = stream.random(300)
    good, bad = (pairs(targets + stream.normal(0, s, 300), targets) for s in (0.1, 0.5))
    drawn = paired_replicates(good, bad)
    assert interval(drawn).high < 0
    assert not paired_replicates(good, good).any()


def test_without_queries_or_targets_there_is_no_interval():
    one = result("a", [1.0, 0.0])
    assert task_interval(replace(one, queries=())) is None
    judged = pairs([0.1, 0.2, 0.3], [1, 2, 3])
    without = tuple(replace(query, target=None) for query in judged.queries)
    assert task_interval(replace(judged, queries=without)) is None
    with pytest.raises(DataError, match="graded similarities"):
        task_replicates(replace(judged, queries=without))
    with pytest.raises(DataError, match="were not kept"):
        query_values(replace(one, queries=()), "official")


def test_queries_of_another_run_are_noticed():
    one = result("a", hits(10, 0.5))
    with pytest.raises(DataError, match="different runs"):
        query_values(replace(one, queries=result("a", hits(10, 0.4)).queries), "pessimistic")


def test_an_interval_prints_per_cent():
    assert str(Interval(0.1234, 0.5)) == "12.3 to 50.0"


def test_a_few_queries_that_all_became_worse_prove_little():
    """The exact test by flipping signs: of 2^n, the one that was seen and its mirror image."""
    for num in (1, 2, 3, 5):
        drawn = paired_replicates(result("a", [1.0] * num), result("a", [0.0] * num))
        assert p_value(drawn, -1.0, num) == 2.0 ** (1 - num)
    assert p_value(np.full(NUM_REPLICATES, -1.0), -1.0, 30) == 1 / (NUM_REPLICATES + 1)


def test_pairs_of_another_run_are_noticed():
    judged = pairs([0.1, 0.2, 0.3], [1, 2, 3])
    other = pairs([0.3, 0.2, 0.1], [1, 2, 3])
    with pytest.raises(DataError, match="different runs"):
        task_interval(replace(judged, queries=other.queries))
