"""Ranking against full sorts in exact arithmetic, under each order of equal scores."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmembed.errors import DataError
from mmembed.evaluation.ranking import (
    Candidates,
    chance_hit_rate,
    check_rows,
    pair_scores,
    rank_documents,
)
from mmembed.evaluation.results import TIES


def unit(rng, count, width=8):
    rows = rng.normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def with_ties(rng, count, distinct=4):
    return unit(rng, distinct)[rng.integers(0, distinct, count)]


def slow_scores(queries, documents):
    """Whole numbers of steps of 2^-26, added up as Python integers."""
    steps = [
        [[round(float(x) * 2**26) for x in row] for row in rows] for rows in (queries, documents)
    ]
    sums = [[sum(a * b for a, b in zip(q, d, strict=True)) for d in steps[1]] for q in steps[0]]
    return np.array([[value / 2**52 for value in row] for row in sums]).astype(np.float32)


def slow_ranking(scores, candidates, ties, k):
    """Positions, for each query, by a sort of everything."""
    found = []
    for query, row in enumerate(scores.tolist()):
        pool = list(range(len(row))) if candidates.pools is None else candidates.pools[query]
        grades, ids = candidates.grades[query], candidates.ids
        names = sorted(pool, key=lambda place: ids[place], reverse=True)
        order = {
            "official": list(pool),
            "docid": names,
            "pessimistic": sorted(names, key=lambda place: grades.get(place, 0)),
        }[ties]
        found.append(sorted(order, key=lambda place: -row[place])[:k])
    return found


def case(seed, *, pooled, num_queries=7, num_documents=23):
    rng = np.random.default_rng(seed)
    queries, documents = with_ties(rng, num_queries), with_ties(rng, num_documents, 6)
    ids = [f"d{each}" for each in rng.permutation(num_documents)]
    pools = None
    if pooled:
        sizes = rng.integers(1, num_documents + 1, num_queries)
        pools = [rng.permutation(num_documents)[:size] for size in sizes]
    grades = []
    for query in range(num_queries):
        pool = np.arange(num_documents) if pools is None else pools[query]
        chosen = rng.permutation(pool)[: rng.integers(1, 4)]
        grades.append({int(place): float(rng.integers(1, 4)) for place in chosen})
    return queries, documents, Candidates(ids, grades, pools)


@given(st.integers(0, 10**6), st.booleans(), st.integers(1, 12))
def test_the_first_k_are_those_of_a_full_sort(seed, pooled, k):
    queries, documents, candidates = case(seed, pooled=pooled)
    scores = slow_scores(queries, documents)
    for ties, ranking in rank_documents(queries, documents, candidates, k=k).items():
        for row, expected in enumerate(slow_ranking(scores, candidates, ties, k)):
            padding = k - len(expected)
            assert ranking.positions[row].tolist() == expected + [-1] * padding, ties
            values = [*scores[row, expected], *[-np.inf] * padding]
            assert ranking.scores[row].tolist() == values


@pytest.mark.parametrize("pooled", [False, True])
def test_blocks_change_nothing(monkeypatch, pooled):
    queries, documents, candidates = case(5, pooled=pooled, num_queries=9, num_documents=40)
    whole = rank_documents(queries, documents, candidates)
    monkeypatch.setattr("mmembed.evaluation.ranking._POOL_QUERIES", 2)
    monkeypatch.setattr("mmembed.evaluation.ranking._CORPUS_QUERIES", 4)
    for block in (1, 3, 39):
        parts = rank_documents(queries, documents, candidates, block=block)
        for ties in TIES:
            assert parts[ties].positions.tolist() == whole[ties].positions.tolist()
            assert parts[ties].scores.tobytes() == whole[ties].scores.tobytes()


@pytest.mark.parametrize("ties", TIES)
def test_a_pool_is_the_full_ranking_without_the_others(ties):
    rng = np.random.default_rng(2)
    queries, documents = with_ties(rng, 6), with_ties(rng, 30, 9)
    ids = [f"d{each}" for each in rng.permutation(30)]
    pools = [np.sort(rng.permutation(30)[:12]) for _ in range(6)]
    grades = [{int(pool[0]): 1.0, int(pool[5]): 2.0} for pool in pools]
    full = rank_documents(queries, documents, Candidates(ids, grades), k=30)[ties]
    local = rank_documents(queries, documents, Candidates(ids, grades, pools), k=12)[ties]
    for row, pool in enumerate(pools):
        inside = [place for place in full.positions[row].tolist() if place in pool]
        assert local.positions[row].tolist() == inside


@pytest.mark.parametrize("width", [1, 7, 64, 1000])
def test_equal_rows_score_equally_wherever_they_stand(width):
    rng = np.random.default_rng(width)
    documents = np.repeat(unit(rng, 1, width), 301, axis=0)
    documents[::3] = unit(rng, 101, width)
    queries = unit(rng, 5, width)
    grades = [{0: 1.0}] * 5
    ids = [f"{each:04d}" for each in range(301)]
    ranking = rank_documents(queries, documents, Candidates(ids, grades), k=301)["docid"]
    for positions, scores in zip(ranking.positions, ranking.scores, strict=True):
        assert len(set(scores[positions % 3 != 0].tolist())) == 1


def test_scores_are_dot_products_to_the_precision_of_float32():
    rng = np.random.default_rng(0)
    first, second = unit(rng, 200, 1536), unit(rng, 200, 1536)
    second[::2] = first[::2]
    exact = [
        math.fsum(a * b for a, b in zip(x, y, strict=True))
        for x, y in zip(first.astype(float), second.astype(float), strict=True)
    ]
    assert np.abs(pair_scores(first, second) - np.array(exact)).max() < 1e-7
    ids = [str(each) for each in range(200)]
    pools = [np.array([each]) for each in range(200)]
    candidates = Candidates(ids, [{each: 1.0} for each in range(200)], pools)
    ranked = rank_documents(first, second, candidates, k=1)["official"]
    assert ranked.scores[:, 0].tolist() == pair_scores(first, second).tolist()


def test_all_that_ties_at_the_last_place_takes_part():
    documents = np.repeat(np.eye(2, dtype=np.float32)[:1], 50, axis=0)
    ids = [f"{each:02d}" for each in range(50)]
    candidates = Candidates(ids, [{7: 1.0}])
    found = rank_documents(documents[:1], documents, candidates, k=3, block=8)
    assert found["official"].positions.tolist() == [[0, 1, 2]]
    assert found["docid"].positions.tolist() == [[49, 48, 47]]
    last = rank_documents(documents[:1], documents, candidates, k=50, block=8)["pessimistic"]
    assert last.positions[0, -1] == 7


def test_rows_without_a_direction_are_refused_by_name():
    rows = np.eye(6, dtype=np.float32)
    rows[1, 0], rows[2], rows[3, 0], rows[4] = np.nan, 0, np.inf, rows[4] * 3
    with pytest.raises(DataError) as caught:
        check_rows(rows, list("abcdef"), "toy: queries")
    assert str(caught.value) == (
        "toy: queries 'b', 'd': NaN or infinity; toy: queries 'c': zeros only; toy: queries 'e': "
        "not of unit length; such vectors are not ranked"
    )
    with pytest.raises(DataError, match=r"toy: 2 ids, but an array of shape \(6, 6\)"):
        check_rows(rows, ["a", "b"], "toy")


def test_rows_that_went_through_half_precision_are_ranked():
    rows = unit(np.random.default_rng(0), 50, 1536)
    check_rows(rows.astype(np.float16).astype(np.float32), [str(i) for i in range(50)], "rows")


def test_chance_equals_a_simulation():
    rng = np.random.default_rng(1)
    expected = chance_hit_rate([1, 3], 20, 5)
    hits = [any(rng.permutation(20)[:5] < count) for _ in range(4000) for count in (1, 3)]
    assert abs(np.mean(hits) - expected) < 0.02
    assert chance_hit_rate([1], 1911, 10) == pytest.approx(10 / 1911)
    assert chance_hit_rate([2], 4, 10) == 1.0


def test_the_matrix_of_scores_is_never_held():
    rng = np.random.default_rng(0)
    queries, documents = unit(rng, 500, 4), unit(rng, 40_000, 4)
    candidates = Candidates([f"{each:05d}" for each in range(40_000)], [{0: 1.0}] * 500)
    tracemalloc.start()
    try:
        rank_documents(queries, documents, candidates, block=256)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 500 * 40_000 * 4 / 3
