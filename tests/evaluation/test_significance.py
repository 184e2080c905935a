"""Holm's rule against a worked example and its guarantees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmembed.evaluation.significance import LEVEL, holm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_holm_on_a_worked_example():
    adjusted = holm([0.01, 0.04, 0.03, 0.005])
    assert [p for p, _ in adjusted] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [level for _, level in adjusted] == pytest.approx(
        [0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4]
    )


@given(P_VALUES)
def test_holm_lies_between_no_adjustment_and_bonferroni(p_values):
    for p, (adjusted, level) in zip(p_values, holm(p_values), strict=True):
        assert p <= adjusted <= min(1.0, p * len(p_values)) + 1e-12
        assert LEVEL / len(p_values) <= level <= LEVEL


@given(P_VALUES)
def test_an_interval_at_holms_level_excludes_zero_exactly_for_the_rejected(p_values):
    for p, (adjusted, level) in zip(p_values, holm(p_values), strict=True):
        if abs(adjusted - LEVEL) > 1e-9:  # at the limit itself rounding decides
            assert (p <= level) == (adjusted <= LEVEL)
