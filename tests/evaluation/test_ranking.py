"""Ranking against brute force, and metrics against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from mmembed.evaluation.ranking import chance_hit_rate, hit_rate, rank, top_k
from mmembed.tasks import RetrievalTask
from mmembed.types import MultimodalInput


def unit(rng, count, width=8):
    rows = rng.normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_top_k_equals_a_full_sort_whatever_the_block(block):
    rng = np.random.default_rng(0)
    queries, documents = unit(rng, 5), unit(rng, 20)
    positions, scores = top_k(queries, documents, 6, block=block)
    full = queries @ documents.T
    for row in range(5):
        expected = sorted(range(20), key=lambda j: (-full[row, j], j))[:6]
        assert positions[row].tolist() == expected
        assert np.allclose(scores[row], full[row, expected], atol=1e-6)


def test_ties_go_to_the_document_that_comes_first():
    documents = np.repeat(np.eye(2, dtype=np.float32)[:1], 4, axis=0)
    positions, _ = top_k(documents[:1], documents, 3, block=2)
    assert positions.tolist() == [[0, 1, 2]]


def test_k_may_exceed_the_corpus():
    rows = np.eye(2, dtype=np.float32)
    assert top_k(rows, rows, 10)[0].shape == (2, 2)


def test_a_nan_vector_is_refused_by_position():
    rows = np.eye(3, dtype=np.float32)
    rows[1, 0] = np.nan
    with pytest.raises(ValueError, match="document vector 1"):
        top_k(np.eye(3, dtype=np.float32), rows, 1)


def task(relevant, corpus=("a", "b", "c", "d")):
    items = {name: MultimodalInput.of(name) for name in corpus}
    queries = {name: MultimodalInput.of(name) for name in relevant}
    return RetrievalTask("toy", queries, items, relevant)


def test_hit_rate_counts_queries_with_a_right_document_in_front():
    documents = np.eye(4, dtype=np.float32)
    queries = np.array([[1, 0.5, 0, 0], [0, 1, 0, 0.5]], dtype=np.float32)
    ranked = rank(task({"q1": {"b": 1.0}, "q2": {"b": 1.0, "d": 0.0}}), queries, documents)
    assert hit_rate(ranked, 1) == 0.5
    assert hit_rate(ranked, 2) == 1.0
    assert ranked.num_relevant.tolist() == [1, 1]


def test_a_query_without_an_answer_in_the_corpus_is_an_error():
    rows = np.eye(4, dtype=np.float32)
    with pytest.raises(ValueError, match="q1"):
        rank(task({"q1": {"x": 1.0}}), rows[:1], rows)


def test_chance_equals_a_simulation():
    rng = np.random.default_rng(1)
    expected = chance_hit_rate([1, 3], 20, 5)
    hits = [any(rng.permutation(20)[:5] < count) for _ in range(4000) for count in (1, 3)]
    assert abs(np.mean(hits) - expected) < 0.02
    assert chance_hit_rate([1], 1911, 10) == pytest.approx(10 / 1911)
    assert chance_hit_rate([2], 4, 10) == 1.0
