"""Student's t and paired differences against tables and closed forms."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmembed.ablation.statistics import paired, t_probability, t_quantile

VALUES = st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=2, max_size=9)


@pytest.mark.parametrize(
    ("confidence", "by_degrees"),
    [
        (0.90, {1: 6.314, 2: 2.920, 5: 2.015, 10: 1.812, 30: 1.697, 120: 1.658}),
        (0.95, {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 7: 2.365, 10: 2.228, 30: 2.042}),
        (0.99, {1: 63.657, 2: 9.925, 4: 4.604, 7: 3.499, 9: 3.250, 10: 3.169, 120: 2.617}),
    ],
)
def test_quantiles_are_those_of_the_printed_tables(confidence, by_degrees):
    for degrees, expected in by_degrees.items():
        assert t_quantile(confidence, degrees) == pytest.approx(expected, abs=6e-4)


@given(st.floats(0, 100))
def test_probabilities_of_few_degrees_are_the_closed_forms(t):
    root = math.sqrt(3)
    three = 2 / math.pi * (math.atan(t / root) + root * t / (3 + t * t))
    assert t_probability(t, 1) == pytest.approx(2 / math.pi * math.atan(t))
    assert t_probability(t, 2) == pytest.approx(t / math.sqrt(2 + t * t))
    assert t_probability(t, 3) == pytest.approx(three)
    four = t / math.sqrt(4 + t * t)
    assert t_probability(t, 4) == pytest.approx(four * (1 + 0.5 * (1 - four * four)))


def test_three_differences_by_hand():
    difference = paired([1.0, 2.0, 3.0])
    assert (difference.mean, difference.sd, difference.degrees) == (2.0, 1.0, 2)
    t = 2 * math.sqrt(3)
    assert difference.p == pytest.approx(1 - t / math.sqrt(2 + t * t))
    low, high = difference.interval()
    assert (low, high) == pytest.approx(
        (2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), 1e-4
    )


def test_equal_runs_differ_by_nothing_with_certainty():
    difference = paired([0.0] * 5)
    assert difference.p == 1.0
    assert difference.interval() == (0.0, 0.0)
    assert paired([0.25] * 5).p == 0.0


def test_one_seed_gives_no_difference():
    assert paired([1.0]) is None


@given(VALUES)
def test_the_interval_at_level_p_ends_at_zero(values):
    difference = paired(values)
    if difference.sd > 1e-3 and 1e-6 < difference.p < 1 - 1e-6:
        low, high = difference.interval(difference.p)
        assert min(abs(low), abs(high)) == pytest.approx(0, abs=1e-6)


@given(VALUES)
def test_turning_the_sign_turns_the_difference(values):
    one, other = paired(values), paired([-value for value in values])
    assert other.mean == -one.mean
    assert (other.sd, other.p) == (one.sd, one.p)
