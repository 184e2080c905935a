"""Rates and waits, by arithmetic: no test here waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmembed.endpoints.pacing import Backoff, Pace, TokenBucket


@given(
    per_minute=st.floats(1, 10_000),
    gaps=st.lists(st.floats(0, 5), min_size=1, max_size=60),
    units=st.floats(0.1, 50),
)
def test_no_window_of_time_sees_more_than_the_rate_and_the_burst(
    per_minute: float, gaps: list[float], units: float
) -> None:
    bucket, now, sent = TokenBucket(per_minute, 0.0), 0.0, []
    for gap in gaps:
        now += gap
        sent.append(now + bucket.take(units, now))
    burst = max(1.0, per_minute / 60)
    assert sent == sorted(sent)
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            seconds = sent[last] - sent[first]
            earlier = units * (last - first)  # the last one pays its debt before it is sent
            assert earlier <= burst + per_minute / 60 * seconds + 1e-6 * (1 + earlier)


def test_requests_at_full_speed_are_spaced_evenly() -> None:
    bucket = TokenBucket(30, 0.0)
    assert [bucket.take(1, 0.0) for _ in range(4)] == pytest.approx([0, 2, 4, 6])


def test_the_stricter_limit_counts_and_usage_corrects_the_estimate() -> None:
    pace = Pace(requests_per_minute=60, tokens_per_minute=600, now=0.0)
    assert pace.enter(10, 0.0) == 0
    pace.settle(10, 40, 0.0)  # 30 tokens more than thought: three seconds of the rate
    assert pace.enter(10, 0.0) == pytest.approx(4.0)
    assert Pace(requests_per_minute=None, tokens_per_minute=None, now=0.0).enter(1e9, 0.0) == 0


def test_a_server_that_is_overloaded_holds_back_all_threads() -> None:
    pace = Pace(requests_per_minute=None, tokens_per_minute=None, now=0.0)
    pace.close_for(5, now=1.0)
    assert pace.enter(1, 2.0) == pytest.approx(4.0)
    pace.close_for(1, now=2.0)  # the longer wait stays
    assert pace.enter(1, 2.0) == pytest.approx(4.0)


@given(st.integers(0, 10_000), st.integers(0, 2**31))
def test_waits_grow_to_a_cap_and_jitter_keeps_half_of_them(attempt: int, seed: int) -> None:
    wait = Backoff(first_seconds=0.5, most_seconds=60, seed=seed).seconds(attempt)
    longest = min(60, 0.5 * 2 ** min(attempt, 60))
    assert longest / 2 <= wait <= longest


def test_the_same_seed_gives_the_same_waits() -> None:
    first, second = (Backoff(first_seconds=1, most_seconds=9, seed=7) for _ in range(2))
    assert [first.seconds(n) for n in range(5)] == [second.seconds(n) for n in range(5)]
