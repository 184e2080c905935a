"""Histograms and counts of a data set in constant memory."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from mmembed.inspection.statistics import DatasetStatistics, Histogram
from mmembed.types import ContrastiveExample, MultimodalInput


def histogram(values: list[float]) -> Histogram:
    made = Histogram()
    for value in values:
        made.add(value)
    return made


def test_least_most_and_mean_are_exact_and_quantiles_within_their_bin() -> None:
    values = np.random.default_rng(0).lognormal(3, 2, 5000).tolist()
    made = histogram(values)
    assert (made.least, made.most) == (min(values), max(values))
    assert made.mean == pytest.approx(np.mean(values))
    for share in (0.01, 0.5, 0.95, 0.99, 1.0):
        exact = np.quantile(values, share)
        assert 1 / 1.5 < made.quantile(share) / exact < 1.5


def test_bins_join_and_hold_every_value() -> None:
    values = [0, 0, 1, 1.2, 7, 8, 1000, 0.01]
    bins = list(histogram(values).bins())
    assert bins[0] == (0.0, 0.0, 2)
    assert sum(count for *_, count in bins) == len(values)
    for (_, high, _), (low, _, _) in pairwise(bins[1:]):
        assert low == high
    for low, high, count in bins[1:]:
        inside = sum(low <= value * (1 + 1e-9) and value * (1 + 1e-9) < high for value in values)
        assert inside == count


def test_a_histogram_of_nothing_has_no_quantiles() -> None:
    assert math.isnan(Histogram().quantile(0.5)) and Histogram().as_dict() == {"count": 0}


def test_rows_are_counted_by_modality_class_and_length() -> None:
    facts = DatasetStatistics("x", count_tokens=lambda text: len(text.split()))
    query, positive = MultimodalInput.of("two words"), MultimodalInput.of("three words more")
    for label in ("good", "good", "bad"):
        facts.add(ContrastiveExample(query, (positive, positive), (query,), label=label))
    found = facts.as_dict()
    assert found["modalities"] == [{"query": "text", "document": "text", "count": 6}]
    assert found["labels"] == {"good": 2, "bad": 1}
    assert found["histograms"]["query tokens"]["max"] == 2
    assert found["histograms"]["positive characters"]["count"] == 6
    assert found["histograms"]["negatives"]["mean"] == 1


def test_bins_of_whole_numbers_are_those_that_can_hold_one() -> None:
    assert [low for low, *_ in histogram([1, 2, 8]).bins()] == pytest.approx(
        [1, 2, 8**0.5, 4, 32**0.5, 8]
    )
