"""Which hits become negatives, against rules written out one by one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmembed.config.files import find_config, list_configs, read_yaml
from mmembed.config.mining import MiningConfig
from mmembed.config.validation import validate
from mmembed.errors import ConfigError
from mmembed.mining.selection import REASONS, Bounds, bounds_of, row_problem, select

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], dtype=np.float32)
POSITIVES = np.array([0.6, 0.8], dtype=np.float32)


def taken(bounds: Bounds = Bounds(), similarity: Any = None, **settings: Any) -> list[int]:  # noqa: B008
    """Ranks."""
    config = MiningConfig(**settings)
    found = select(
        SCORES,
        POSITIVES,
        config,
        bounds=bounds,
        similarity=similarity,
        wanted=config.num_negatives,
        rng=np.random.default_rng(0),
    )
    return [place + 1 for place in found.taken.tolist()]


def test_without_settings_the_nearest_are_taken() -> None:
    assert taken() == [1, 2, 3, 4, 5, 6, 7]
    assert taken(num_negatives=2) == [1, 2]


def test_ranks_count_from_one_and_both_ends_are_taken() -> None:
    assert taken(ranks=(3, 5)) == [3, 4, 5]
    assert taken(ranks=(7, 100)) == [7, 8]
    assert taken(ranks=(9, 100)) == []


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"max_score": 0.65}, [4, 5, 6, 7, 8]),
        ({"min_score": 0.45}, [1, 2, 3, 4, 5]),
        ({"absolute_margin": 0.15}, [5, 6, 7, 8]),  # below 0.7 - 0.15
        ({"absolute_margin": 0.0, "positive": "max"}, [3, 4, 5, 6, 7, 8]),  # 0.8 is not below
        ({"relative_margin": 0.05}, [4, 5, 6, 7, 8]),  # below 0.95 * 0.7
        ({"relative_margin": 0.05, "positive": "min"}, [5, 6, 7, 8]),  # below 0.57
        ({"relative_margin": 0.05, "positive": "max"}, [3, 4, 5, 6, 7, 8]),  # below 0.76
        ({"relative_margin": 0.0, "positive": "max"}, [3, 4, 5, 6, 7, 8]),  # 0.8 is not below
    ],
)
def test_a_bound_takes_out_what_it_says(setting: dict[str, Any], expected: list[int]) -> None:
    assert taken(num_negatives=8, **setting) == expected


def test_a_relative_margin_lowers_the_bound_of_a_negative_cosine_too() -> None:
    config = MiningConfig(relative_margin=0.5)
    scores = np.array([-0.3, -0.5, -0.7], dtype=np.float32)
    found = select(
        scores,
        np.array([-0.4], dtype=np.float32),
        config,
        bounds=Bounds(),
        similarity=None,
        wanted=3,
        rng=np.random.default_rng(0),
    )
    assert found.taken.tolist() == [2]  # below -0.6


def test_what_is_too_close_to_a_positive_is_not_taken() -> None:
    near = np.array([0.99, 0.1, 0.96, 0.1, 0.1, 0.1, 0.1, 0.95])
    assert taken(similarity=near, max_similarity=0.95, num_negatives=8) == [2, 4, 5, 6, 7, 8]


def test_percentiles_are_of_the_scores_of_all_positives() -> None:
    flat = np.linspace(0, 1, 101, dtype=np.float32)
    bounds = bounds_of(flat, MiningConfig(max_percentile=55, min_positive_percentile=10))
    assert bounds.ceiling == pytest.approx(0.55) and bounds.floor == pytest.approx(0.1)
    assert taken(bounds, max_percentile=55, num_negatives=8) == [5, 6, 7, 8]
    assert bounds_of(flat[:0], MiningConfig(max_percentile=55)) == Bounds()


@given(
    scores=st.lists(st.floats(-1, 1, width=32), max_size=30),
    positives=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=3),
    first=st.integers(1, 10),
    length=st.integers(0, 20),
    bounds=st.tuples(*[st.none() | st.floats(-1, 1, width=32)] * 4),
    relative=st.none() | st.floats(0, 1, width=32),
    positive=st.sampled_from(["mean", "min", "max"]),
    sampling=st.sampled_from(["top", "random"]),
    seed=st.integers(0, 5),
)
@settings(max_examples=200, deadline=None)
def test_selection_is_that_of_a_loop_over_the_hits(
    scores: list[float],
    positives: list[float],
    first: int,
    length: int,
    bounds: tuple[float | None, ...],
    relative: float | None,
    positive: Any,
    sampling: Any,
    seed: int,
) -> None:
    scores.sort(reverse=True)
    low, high, margin, near_bound = bounds
    config = MiningConfig(
        num_negatives=4,
        ranks=(first, first + length),
        min_score=low,
        max_score=high,
        absolute_margin=margin,
        relative_margin=relative,
        max_similarity=near_bound,
        positive=positive,
        sampling=sampling,
    )
    near = np.random.default_rng(seed).uniform(-1, 1, len(scores))
    found = select(
        np.array(scores, dtype=np.float32),
        np.array(positives, dtype=np.float32),
        config,
        bounds=Bounds(),
        similarity=near,
        wanted=4,
        rng=np.random.default_rng(seed),
    )
    reference = {"mean": sum(positives) / len(positives), "min": min(positives)}
    reference["max"] = max(positives)
    at = reference[positive]
    passed, removed = [], dict.fromkeys(REASONS, 0)
    for place, score in enumerate(scores):
        if not first <= place + 1 <= first + length:
            continue
        if low is not None and score < low:
            removed["min_score"] += 1
        elif high is not None and score > high:
            removed["max_score"] += 1
        elif margin is not None and score >= at - margin:
            removed["absolute_margin"] += 1
        elif relative is not None and score >= at - relative * abs(at):
            removed["relative_margin"] += 1
        elif near_bound is not None and near[place] > near_bound:
            removed["max_similarity"] += 1
        else:
            passed.append(place)
    chosen = found.taken.tolist()
    assert {name: n for name, n in removed.items() if n} == {
        name: n for name, n in found.removed.items() if n
    }
    assert chosen == sorted(set(chosen)) and set(chosen) <= set(passed)
    assert len(chosen) == min(4, len(passed))
    if sampling == "top":
        assert chosen == passed[:4]


def test_random_sampling_reaches_every_hit_that_passes() -> None:
    config = MiningConfig(num_negatives=2, sampling="random", ranks=(2, 6))
    seen = set(
        itertools.chain.from_iterable(
            select(
                SCORES,
                POSITIVES,
                config,
                bounds=Bounds(),
                similarity=None,
                wanted=2,
                rng=np.random.default_rng(seed),
            ).taken.tolist()
            for seed in range(50)
        )
    )
    assert seen == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("setting", "bounds", "problem"),
    [
        ({}, Bounds(), None),
        ({"min_positive": float(np.float32(0.8))}, Bounds(), "min_positive"),  # not above
        ({"min_positive": 0.79}, Bounds(), None),
        ({"min_positive_percentile": 10}, Bounds(floor=0.81), "min_positive_percentile"),
        ({"min_positive_percentile": 10}, Bounds(floor=0.79), None),
        ({"max_positive_rank": 1}, Bounds(), "max_positive_rank"),  # 0.8 < 0.9
        ({"max_positive_rank": 2}, Bounds(), None),  # equal to the second hit
        ({"max_positive_rank": 9}, Bounds(), None),  # no such hit
    ],
)
def test_a_row_whose_positives_the_teacher_does_not_see_is_dropped(
    setting: dict[str, Any], bounds: Bounds, problem: str | None
) -> None:
    assert row_problem(POSITIVES, SCORES, MiningConfig(**setting), bounds) == problem


@pytest.mark.parametrize("name", sorted(list_configs("mining")))
def test_shipped_settings_are_settings(name: str) -> None:
    path = find_config(name, folder="mining")
    fields = read_yaml(path.read_text("utf-8"), source=name)
    config = validate(MiningConfig, fields, where=name)
    assert config.model_dump(include=set(fields), mode="json") == fields


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"ranks": (0, 5)}, "the first rank is at least 1"),
        ({"ranks": (6, 5)}, "at most the last"),
        ({"scores": "reranker"}, "go together"),
        ({"reranker": "x"}, "go together"),
        ({"num_negative": 3}, "did you mean 'num_negatives'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(MiningConfig, setting, where="mining")
