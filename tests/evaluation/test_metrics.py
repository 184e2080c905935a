"""Metrics against loops, closed forms, trec_eval, mteb and scipy."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmembed.evaluation.metrics import METRICS, mean, pearson, query_metrics, spearman


def slow_metrics(ranked, gains):
    """The definitions of the specification, 1.8. `gains`: of the relevant documents."""
    found = {}
    for k in (1, 5, 10):
        relevant = [name in gains for name in ranked[:k]]
        hits = sum(relevant)
        precision, recall = hits / k, hits / len(gains)
        found[f"hit@{k}"] = float(hits > 0)
        found[f"precision@{k}"], found[f"recall@{k}"] = precision, recall
        found[f"f1@{k}"] = 2 * precision * recall / (precision + recall) if hits else 0.0
        at_hits = [sum(relevant[: i + 1]) / (i + 1) for i in range(len(relevant)) if relevant[i]]
        found[f"map@{k}"] = sum(at_hits) / min(len(gains), k)
        found[f"mrr@{k}"] = 1 / (relevant.index(True) + 1) if hits else 0.0
        for form, gain in (("linear", float), ("exponential", lambda grade: 2**grade - 1)):
            mine = [gain(gains.get(name, 0)) for name in ranked[:k]]
            best = sorted((gain(grade) for grade in gains.values()), reverse=True)[:k]
            found[f"ndcg_{form}@{k}"] = dcg(mine) / dcg(best)
    return found


def dcg(gains):
    return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))


def as_arrays(rankings, grades):
    """Rows of `query_metrics`."""
    gains = np.zeros((len(rankings), 10))
    ideal = np.zeros((len(rankings), 10))
    for row, (ranked, grade) in enumerate(zip(rankings, grades, strict=True)):
        first = [grade.get(name, 0) for name in ranked[:10]]
        best = sorted(grade.values(), reverse=True)[:10]
        gains[row, : len(first)], ideal[row, : len(best)] = first, best
    return gains, ideal, np.array([len(grade) for grade in grades])


@st.composite
def rankings_and_grades(draw):
    names = [f"d{each}" for each in range(draw(st.integers(1, 25)))]
    ranked = draw(st.permutations(names))
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    grades = {name: draw(st.sampled_from([0.5, 1.0, 2.0, 3.0])) for name in chosen}
    return ranked, grades


@given(st.lists(rankings_and_grades(), min_size=1, max_size=5))
def test_arrays_equal_the_definitions(cases):
    rankings, grades = zip(*cases, strict=True)
    found = query_metrics(*as_arrays(rankings, grades))
    assert tuple(found) == METRICS
    assert len(METRICS) == 24
    for row, case in enumerate(cases):
        expected = slow_metrics(*case)
        assert {name: values[row] for name, values in found.items()} == pytest.approx(expected)


def test_average_precision_divides_by_the_smaller_of_labels_and_cutoff():
    ranked = [f"d{each}" for each in range(10)]
    grades = {name: 1.0 for name in ranked[:7]}
    found = query_metrics(*as_arrays([ranked], [grades]))
    assert found["map@5"] == found["map@1"] == 1.0
    assert found["recall@5"] == pytest.approx(5 / 7)


def random_cases(num_queries, num_documents, grades):
    rng = np.random.default_rng(3)
    names = [f"d{each:03d}" for each in range(num_documents)]
    scores = rng.integers(0, 12, (num_queries, num_documents)) / 12  # many ties
    qrels = [
        {names[place]: int(rng.choice(grades)) for place in rng.permutation(num_documents)[:count]}
        for count in rng.integers(1, 9, num_queries)
    ]
    run = [dict(zip(names, row, strict=True)) for row in scores.tolist()]
    ranked = [sorted(each, key=lambda name: (each[name], name), reverse=True) for each in run]
    return ranked, qrels, run


def test_values_are_those_of_trec_eval():
    import pytrec_eval

    ranked, qrels, run = random_cases(40, 30, (1, 2, 3))
    measures = {"ndcg_cut.1,5,10", "map_cut.1,5,10", "P.1,5,10", "recall.1,5,10", "success.1,5,10"}
    evaluator = pytrec_eval.RelevanceEvaluator(by_name(qrels), {*measures, "recip_rank"})
    theirs = evaluator.evaluate(by_name(run))
    ours = query_metrics(*as_arrays(ranked, qrels))
    pairs = {"ndcg_linear": "ndcg_cut", "precision": "P", "recall": "recall", "hit": "success"}
    for row in range(len(qrels)):
        each = theirs[str(row)]
        for name, measure in pairs.items():
            for k in (1, 5, 10):
                assert ours[f"{name}@{k}"][row] == pytest.approx(each[f"{measure}_{k}"])
        for k in (1, 5, 10):
            as_trec = ours[f"map@{k}"][row] * min(k, len(qrels[row])) / len(qrels[row])
            assert as_trec == pytest.approx(each[f"map_cut_{k}"])
            first = each["recip_rank"]
            assert ours[f"mrr@{k}"][row] == pytest.approx(first if first >= 0.999 / k else 0.0)


def test_means_are_those_of_mteb():
    from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

    ranked, qrels, run = random_cases(25, 40, (1, 2))
    theirs = calculate_retrieval_scores(by_name(run), by_name(qrels), [1, 5, 10])
    ours = query_metrics(*as_arrays(ranked, qrels))
    for k in (1, 5, 10):
        for name, found, key in (
            ("ndcg_linear", theirs.ndcg, "NDCG"),
            ("recall", theirs.recall, "Recall"),
            ("precision", theirs.precision, "P"),
            ("mrr", theirs.mrr, "MRR"),
        ):
            assert mean(ours[f"{name}@{k}"]) == pytest.approx(found[f"{key}@{k}"], abs=1e-5), name


def by_name(cases):
    return {str(row): case for row, case in enumerate(cases)}


def official_ndcg(ranked, labels, grades, k):
    """As the public scorer does: labels through a set, then paired with the grades by position."""
    paired = dict(zip(labels, grades, strict=True))
    best = sorted(paired.values(), reverse=True)[:k]
    return dcg([paired.get(name, 0) for name in ranked[:k]]) / dcg(best)


def test_a_grade_belongs_to_its_document_where_the_public_scorer_depends_on_the_hash_seed():
    ranked = ["x", "b", "y", "z", "c", "a"]
    grades = {"a": 3.0, "b": 2.0, "c": 1.0}
    [ours] = query_metrics(*as_arrays([ranked], [grades]))["ndcg_linear@5"]
    ideal = 3 + 2 / math.log2(3) + 1 / math.log2(4)
    assert ours == pytest.approx((2 / math.log2(3) + 1 / math.log2(6)) / ideal)
    orders = (["a", "b", "c"], ["b", "a", "c"], ["c", "b", "a"])  # what a set may give
    theirs = [official_ndcg(ranked, order, list(grades.values()), 5) for order in orders]
    assert theirs[0] == pytest.approx(ours)
    assert len({round(value, 4) for value in (ours, *theirs)}) == 3


@settings(deadline=None)  # the first example imports scipy
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.floats(-5, 5, width=16)), min_size=2, max_size=30
    ).filter(lambda pairs: len({x for x, _ in pairs}) > 1 and len({y for _, y in pairs}) > 1)
)
def test_correlations_are_those_of_scipy(pairs):
    from scipy import stats

    x, y = np.array(pairs, dtype=float).T
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        expected = stats.pearsonr(x, y).statistic
    assert pearson(x, y) == pytest.approx(expected, abs=1e-9)


def test_a_constant_side_correlates_with_nothing():
    assert spearman(np.ones(3), np.arange(3)) == pearson(np.arange(3), np.ones(3)) == 0.0


def test_a_mean_does_not_depend_on_the_order():
    values = np.random.default_rng(0).random(1000) ** 9
    assert mean(values) == mean(values[::-1]) == math.fsum(values) / 1000
