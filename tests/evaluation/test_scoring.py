"""Tasks with known answers, refused data, and what must not change a result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmembed.errors import DataError
from mmembed.evaluation.metrics import COUNTS, METRICS
from mmembed.evaluation.results import TIES
from mmembed.evaluation.scoring import check_task, score_retrieval, score_similarity
from mmembed.tasks import RetrievalTask, SimilarityTask, TaskCard
from mmembed.types import MultimodalInput

ITEM = MultimodalInput.of("anything")
CARD = TaskCard("toy", "text", "T-RET", "hit@1", "made up")


def retrieval(relevant, corpus="abcd", pools=None):
    queries, documents = dict.fromkeys(relevant, ITEM), dict.fromkeys(corpus, ITEM)
    return RetrievalTask("toy", queries, documents, relevant, pools=pools)


def constant(count):
    return np.repeat(np.eye(3, dtype=np.float32)[:1], count, axis=0)


def test_a_perfect_ranking_and_its_reverse():
    rows = np.eye(4, dtype=np.float32)
    task = retrieval({name: {name: 1.0} for name in "abcd"})
    best = score_retrieval(CARD, task, rows, rows)
    assert best.metrics["docid"]["ndcg_linear@5"] == best.value() == 1.0
    assert best.tie_affected == 0
    assert score_retrieval(CARD, task, rows, -rows).value("official") == 0.0
    assert tuple(best.metrics["official"]) == (*METRICS, *COUNTS)
    assert best.metrics["official"]["num_data"] == best.num_queries == best.num_documents == 4


@pytest.mark.parametrize("with_pools", [False, True])
def test_a_constant_encoder_scores_nothing_where_the_public_scorers_give_it_all(with_pools):
    pools = {"q": "abcd", "r": "cd"} if with_pools else None
    task = retrieval({"q": {"a": 1.0}, "r": {"c": 1.0}}, pools=pools)
    result = score_retrieval(CARD, task, constant(2), constant(4))
    assert result.value("pessimistic") == 0.0
    assert result.value("official") == (1.0 if with_pools else 0.5)
    assert result.tie_affected == (2 if with_pools else 1)


def test_a_query_result_names_the_first_documents_and_which_are_right():
    documents = np.array([[0, 1], [1, 0], [0.6, 0.8], [0, 1]], dtype=np.float32)
    task = retrieval({"q": {"a": 2.0, "c": 1.0}})
    [found] = score_retrieval(CARD, task, documents[:1], documents).queries
    assert found.id == "q"
    assert found.top == (("d", 1.0), ("a", 1.0), ("c", pytest.approx(0.8)), ("b", 0.0))
    assert found.relevant == (False, True, True, False)
    assert dict(found.value) == {"pessimistic": 0.0, "official": 1.0, "docid": 0.0}


def test_grades_reach_the_metrics():
    rows = np.eye(4, dtype=np.float32)
    query = np.array([[0.8, 0.6, 0, 0]], dtype=np.float32)
    result = score_retrieval(CARD, retrieval({"q": {"b": 3.0, "a": 1.0, "c": 0.0}}), query, rows)
    found = result.metrics["pessimistic"]
    log3 = np.log2(3)
    assert found["ndcg_linear@5"] == pytest.approx((1 + 3 / log3) / (3 + 1 / log3))
    assert found["ndcg_exponential@5"] == pytest.approx((1 + 7 / log3) / (7 + 1 / log3))
    assert found["recall@5"] == 1.0  # a grade of 0 is none


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (retrieval({}), "toy has no queries"),
        (retrieval({"q": {}, "r": {"a": 0.0}}), "have no relevant document: 'q', 'r'"),
        (retrieval({"q": {"x": 1.0, "a": 1.0}}), "not in the corpus .*: 'q: x'"),
        (retrieval({"q": {"a": -1.0}}), "grades are not between 0 and 1000: 'q: a'"),
        (retrieval({"q": {"a": float("nan")}}), "grades are not between 0 and 1000: 'q: a'"),
        (retrieval({"q": {"a": 1.0}}, pools={}), "queries have no pool: 'q'"),
        (retrieval({"q": {"a": 1.0}}, pools={"q": "bc"}), "not in the pool .*: 'q: a'"),
        (retrieval({"q": {"a": 1.0}}, pools={"q": "ax"}), "candidates are not in the .*: 'q: x'"),
    ],
)
def test_labels_that_cannot_be_right_are_refused_by_name(task, message):
    with pytest.raises(DataError, match=message):
        check_task(CARD, task)
    with pytest.raises(DataError, match=message):
        score_retrieval(CARD, task, constant(len(task.queries)), constant(4))


def test_a_metric_that_a_task_does_not_have_is_refused():
    card = replace(CARD, main_metric="spearman")
    with pytest.raises(DataError, match="toy: main metric 'spearman'; one of hit@1"):
        check_task(card, retrieval({"q": {"a": 1.0}}))
    with pytest.raises(DataError, match=r"'hit@1'; one of spearman$"):
        check_task(CARD, SimilarityTask("toy", {}, {}))


def test_vectors_that_cannot_be_ranked_are_refused_by_name():
    task = retrieval({"q": {"a": 1.0}})
    bad = constant(4)
    bad[2] = np.nan
    with pytest.raises(DataError, match="toy: documents 'c': NaN"):
        score_retrieval(CARD, task, constant(1), bad)
    with pytest.raises(DataError, match="toy: queries 'q': zeros only"):
        score_retrieval(CARD, task, constant(1) * 0, constant(4))
    with pytest.raises(DataError, match="queries have 2 dimensions, documents 3"):
        score_retrieval(CARD, task, np.eye(2, dtype=np.float32)[:1], constant(4))


def test_a_candidate_that_stands_twice_in_a_pool_is_one():
    rows = np.eye(4, dtype=np.float32)
    query = np.array([[0.6, 0, 0.8, 0]], dtype=np.float32)
    twice = retrieval({"q": {"a": 1.0}}, pools={"q": "cca"})
    assert score_retrieval(CARD, twice, query, rows).metrics["official"]["mrr@5"] == 0.5


@given(st.randoms(use_true_random=False), st.booleans())
def test_no_order_changes_a_result(random, with_pools):
    rng = np.random.default_rng(random.randrange(10**6))
    documents = rng.normal(size=(5, 6))[rng.integers(0, 5, 14)]  # many equal ones
    documents = (documents / np.linalg.norm(documents, axis=1)[:, None]).astype(np.float32)
    names, query_names = [f"d{each}" for each in range(14)], [f"q{each}" for each in range(4)]
    relevant = {
        query: {names[place]: float(rng.integers(1, 4)) for place in rng.permutation(14)[:3]}
        for query in query_names
    }
    pools = {query: [*relevant[query], *names[:5]] for query in query_names}
    row_of = dict(zip(names, documents, strict=True))
    query_of = dict(zip(query_names, documents[:4], strict=True))

    def results(ids, queries, labels, candidates):
        task = RetrievalTask(
            "toy",
            dict.fromkeys(queries, ITEM),
            dict.fromkeys(ids, ITEM),
            {query: dict(labels(relevant[query].items())) for query in reversed(queries)},
            pools={query: candidates(pools[query]) for query in queries} if with_pools else None,
        )
        rows = np.stack([query_of[each] for each in queries]), np.stack([row_of[i] for i in ids])
        return score_retrieval(replace(CARD, main_metric="map@5"), task, *rows)

    def shuffled(items):
        return random.sample(list(items), len(items))

    before = results(names, query_names, list, list)
    after = results(shuffled(names), shuffled(query_names), shuffled, shuffled)
    for ties in ("pessimistic", "docid"):
        assert before.metrics[ties] == after.metrics[ties]
    first, second = ({each.id: each for each in run.queries} for run in (before, after))
    for name in query_names:
        assert first[name].top == second[name].top
        assert first[name].value["pessimistic"] == second[name].value["pessimistic"]


def test_pairs_are_judged_by_the_order_of_their_cosines():
    angles = np.array([0.1, 0.5, 1.0, 2.0])
    first = np.tile(np.array([[1, 0]], dtype=np.float32), (4, 1))
    second = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    gold = dict(zip("abcd", (5.0, 4.0, 4.5, 0.0), strict=True))
    task = SimilarityTask("toy", dict.fromkeys("abcd", (ITEM, ITEM)), gold)
    card = replace(CARD, main_metric="spearman")
    result = score_similarity(card, task, first, second, missing=["gone.jpg"])
    assert result.value() == pytest.approx(0.8)
    assert set(result.metrics) == set(TIES)
    assert result.queries[3].value["docid"] == pytest.approx(np.cos(2.0))
    assert result.is_partial
    assert score_similarity(card, task, first, first).value() == 0.0
    with pytest.raises(DataError, match="at least two different gold scores"):
        check_task(card, replace(task, scores=dict.fromkeys("abcd", 1.0)))
    with pytest.raises(DataError, match="pairs have no score: 'd'"):
        check_task(card, replace(task, scores=dict.fromkeys("abc", 1.0)))
    with pytest.raises(DataError, match="scores are not finite: 'b'"):
        check_task(card, replace(task, scores={**gold, "b": float("inf")}))
