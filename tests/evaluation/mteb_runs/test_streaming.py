"""A corpus in windows against sorting everything."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmembed.evaluation.mteb_runs.streaming import Best, rank_window


@st.composite
def corpora(draw: Any) -> tuple[np.ndarray, np.ndarray, list[str], int, list[int]]:
    """Few distinct rows, so that most scores are equal; cuts between windows."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    distinct = generator.normal(size=(3, 5)).astype(np.float32)
    distinct /= np.linalg.norm(distinct, axis=1, keepdims=True)
    count = draw(st.integers(1, 12))
    documents = distinct[generator.integers(0, 3, count)]
    ids = [f"{number}" for number in generator.permutation(100)[:count]]
    cuts = sorted(draw(st.sets(st.integers(1, 12), max_size=4)))
    return distinct[:2], documents, ids, draw(st.integers(1, 14)), [c for c in cuts if c < count]


@settings(max_examples=60, deadline=None)
@given(corpora())
def test_windows_give_what_sorting_everything_gives(case: Any) -> None:
    queries, documents, ids, k, cuts = case
    best = Best(len(queries), ids, k)
    for begin, end in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        best.merge(queries, documents[begin:end], begin)
    found = best.by_query(["a", "b"], ids)
    for query, row in zip(["a", "b"], queries, strict=True):
        # of equal scores the larger id, as a string, comes first
        pairs = [(round(float(row @ d), 6), name) for d, name in zip(documents, ids, strict=True)]
        assert list(found[query]) == [name for _, name in sorted(pairs, reverse=True)][:k]


def test_pools_are_ranked_alone_and_an_empty_one_finds_nothing() -> None:
    rows = np.eye(4, dtype=np.float32)
    pools = [np.array([2, 0]), np.array([], dtype=np.int64), np.array([3])]
    found = rank_window(rows[:3], rows, list("abcd"), k=4, pools=pools)
    assert found.by_query(["x", "y", "z"], list("abcd")) == {
        "x": {"a": 1.0, "c": 0.0}, "y": {}, "z": {"d": 0.0},
    }  # fmt: skip
