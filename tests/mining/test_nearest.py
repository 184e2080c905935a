"""Exact search against a sort of all scores, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmembed.mining.nearest import Hidden, Hits, cosines, nearest

RNG = np.random.default_rng(0)
NONE = Hidden(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


def units(count: int, dimension: int = 16) -> np.ndarray:
    rows = RNG.normal(size=(count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


QUERIES, DOCUMENTS = units(7), units(90)
DOCUMENTS[40:60] = DOCUMENTS[10]  # ties
DOCUMENTS[80] = -DOCUMENTS[10]


def found(k: int, hidden: Hidden = NONE, **options: object) -> Hits:
    return nearest(
        QUERIES, len(DOCUMENTS), lambda a, b: DOCUMENTS[a:b], k=k, hidden=hidden, **options
    )  # type: ignore[arg-type]


def sorted_scores(query: int, hidden: set[int]) -> list[tuple[float, int]]:
    scores = cosines(QUERIES[query : query + 1], DOCUMENTS)[0]
    left = [(float(s), n) for n, s in enumerate(scores) if n not in hidden]
    return sorted(left, key=lambda pair: (-pair[0], pair[1]))


@pytest.mark.parametrize("block", [1, 7, 64, 4096])
@pytest.mark.parametrize("k", [1, 25, 90, 120])
def test_the_nearest_are_those_of_a_sort_and_the_earlier_of_equals_comes_first(
    k: int, block: int
) -> None:
    hits = found(k, block=block)
    for query in range(len(QUERIES)):
        places, scores = hits.of(query)
        expected = sorted_scores(query, set())[:k]
        assert list(zip(scores.tolist(), places.tolist(), strict=True)) == expected


@pytest.mark.parametrize("block", [5, 4096])
def test_hidden_documents_and_those_of_the_label_are_never_found(block: int) -> None:
    pairs = sorted((place, query) for query in range(7) for place in range(query, 90, 9))
    labels = np.arange(90, dtype=np.int64) % 3
    labels[30:] = -1
    of_query = np.array([0, 1, 2, -1, 0, 1, -1])
    hidden = Hidden(
        np.array([q for _, q in pairs]), np.array([p for p, _ in pairs]), of_query, labels
    )
    hits = found(90, hidden, block=block)
    for query in range(len(QUERIES)):
        gone = {place for place, q in pairs if q == query}
        if of_query[query] >= 0:
            gone |= {n for n in range(90) if labels[n] == of_query[query]}
        places, scores = hits.of(query)
        expected = sorted_scores(query, gone)
        assert list(zip(scores.tolist(), places.tolist(), strict=True)) == expected


def test_behind_the_last_candidate_there_is_nothing() -> None:
    hits = found(100)
    assert (hits.places[:, 90:] == -1).all() and np.isneginf(hits.scores[:, 90:]).all()
    empty = nearest(QUERIES, 0, lambda a, b: DOCUMENTS[:0], k=3, hidden=NONE)
    assert (empty.places == -1).all() and empty.places.shape == (7, 3)


def test_many_queries_are_scored_in_parts() -> None:
    queries = units(1100)
    asked = np.arange(1100)
    places = asked % 90
    order = np.argsort(places, kind="stable")
    hits = nearest(
        queries, 90, lambda a, b: DOCUMENTS[a:b], k=5, hidden=Hidden(asked[order], places[order])
    )
    scores = cosines(queries, DOCUMENTS)
    scores[asked, places] = -np.inf
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    assert np.array_equal(hits.places, expected)


def test_no_query_finds_nothing() -> None:
    hits = nearest(QUERIES[:0], 90, lambda a, b: DOCUMENTS[a:b], k=5, hidden=NONE)
    assert hits.places.shape == hits.scores.shape == (0, 5)


def test_scores_are_the_cosines() -> None:
    expected = QUERIES.astype(np.float64) @ DOCUMENTS.T.astype(np.float64)
    assert np.abs(cosines(QUERIES, DOCUMENTS) - expected).max() < 1e-7


@pytest.mark.gpu
def test_a_gpu_finds_the_same_with_the_same_scores() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    for k in (1, 25, 120):
        ours, theirs = found(k), found(k, device="cuda", block=33)
        assert np.array_equal(ours.places, theirs.places)
        assert np.array_equal(ours.scores, theirs.scores)
