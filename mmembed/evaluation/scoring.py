"""From vectors to the result of a task: all metrics under every tie policy.

A task is judged by the rows of its items alone. The result does not depend on the order of queries,
documents, labels or candidates, except under `official`, where that order decides ties.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mmembed.errors import DataError
from mmembed.evaluation.metrics import (
    COUNTS,
    METRICS,
    mean,
    pearson,
    query_metrics,
    spearman,
)
from mmembed.evaluation.ranking import (
    Candidates,
    Ranking,
    check_rows,
    named,
    pair_scores,
    rank_documents,
)
from mmembed.evaluation.results import TIES, QueryResult, TaskResult, file_stem
from mmembed.tasks import EvaluationTask, RetrievalTask, SimilarityTask, TaskCard

__all__ = ["check_task", "score_retrieval", "score_similarity"]

_DEPTH = 10
_LARGEST_GRADE = 1000  # 2 to its power is still a number


def check_task(card: TaskCard, task: EvaluationTask) -> None:
    """Everything about a task that would end its scoring, found without vectors.

    Raises:
        DataError: labels or candidates that are not what they should be, with the ids;
            a main metric that this kind of task does not have; a name that cannot be a file's.
    """
    file_stem(card.name)
    if isinstance(task, RetrievalTask):
        _candidates(card, task)
    else:
        _gold(card, task)


def score_retrieval(
    card: TaskCard,
    task: RetrievalTask,
    queries: np.ndarray,
    documents: np.ndarray,
    *,
    missing: Sequence[str] = (),
) -> TaskResult:
    """Rank every query's candidates.

    A grade of 0 is that of a document which is not relevant. An id that stands twice in a pool is
    one candidate, at its first place.

    Args:
        queries, documents: (Q, D) and (M, D) unit rows in the order of the task.

    Raises:
        DataError: what `check_task` finds; vectors that are not finite unit rows, with
            their ids.
    """
    candidates = _candidates(card, task)
    query_ids = list(task.queries)
    _check_rows(card, queries, query_ids, documents, candidates.ids)
    rankings = rank_documents(queries, documents, candidates, k=_DEPTH)
    ideal, counts = _ideal(candidates.grades)
    metrics: dict[str, dict[str, float]] = {}
    values: dict[str, np.ndarray] = {}
    for ties in TIES:
        gains = _gains(rankings[ties], candidates.grades)
        found = query_metrics(gains, ideal, counts)
        metrics[ties] = {name: mean(each) for name, each in found.items()}
        metrics[ties] |= dict.fromkeys(COUNTS, len(query_ids))
        values[ties] = found[card.main_metric]
    spread = np.stack(list(values.values()))
    return TaskResult(
        card=card,
        metrics=metrics,
        num_queries=len(query_ids),
        num_documents=len(candidates.ids),
        tie_affected=int((spread != spread[0]).any(axis=0).sum()),
        missing=tuple(missing),
        queries=_query_results(query_ids, values, rankings["pessimistic"], candidates),
    )


def score_similarity(
    card: TaskCard,
    task: SimilarityTask,
    first: np.ndarray,
    second: np.ndarray,
    *,
    missing: Sequence[str] = (),
) -> TaskResult:
    """Correlate the cosines of the pairs with their gold scores; ties have no part in it.

    Args:
        first, second: (N, D) unit rows of the two sides, in the order of the pairs.

    Raises:
        DataError: as for `score_retrieval`.
    """
    gold = _gold(card, task)
    ids = list(task.pairs)
    _check_rows(card, first, ids, second, ids)
    cosines = pair_scores(first, second)
    found = {"spearman": spearman(cosines, gold), "pearson": pearson(cosines, gold)}
    results = tuple(
        QueryResult(name, dict.fromkeys(TIES, cosine), target=target)
        for name, cosine, target in zip(ids, cosines.tolist(), gold.tolist(), strict=True)
    )
    return TaskResult(
        card=card,
        metrics={ties: dict(found) for ties in TIES},
        num_queries=len(ids),
        num_documents=len(ids),
        missing=tuple(missing),
        queries=results,
    )


def _check_rows(
    card: TaskCard,
    first: np.ndarray,
    first_ids: Sequence[str],
    second: np.ndarray,
    second_ids: Sequence[str],
) -> None:
    check_rows(first, first_ids, f"{card.name}: queries")
    check_rows(second, second_ids, f"{card.name}: documents")
    if first.shape[1] != second.shape[1]:
        raise DataError(
            f"{card.name}: queries have {first.shape[1]} dimensions, documents {second.shape[1]}"
        )


def _candidates(card: TaskCard, task: RetrievalTask) -> Candidates:
    """The task by positions in its corpus."""
    _check_metric(card, METRICS)
    if not task.queries:
        raise DataError(f"{card.name} has no queries")
    position_of = {name: position for position, name in enumerate(task.corpus)}
    grades = []
    unlabelled, absent, impossible = [], [], []
    for query_id in task.queries:
        labels = task.relevant.get(query_id, {})
        bad = [name for name, grade in labels.items() if not 0 <= grade <= _LARGEST_GRADE]
        impossible += [f"{query_id}: {name}" for name in bad]
        relevant = {name: float(grade) for name, grade in labels.items() if grade > 0}
        if not relevant:
            unlabelled.append(query_id)
        absent += [f"{query_id}: {name}" for name in relevant if name not in position_of]
        grades.append(
            {position_of[name]: grade for name, grade in relevant.items() if name in position_of}
        )
    _refuse(card, "grades are not between 0 and 1000", impossible)
    _refuse(card, "queries have no relevant document", unlabelled)
    _refuse(card, "relevant documents are not in the corpus (query: document)", absent)
    pools = None if task.pools is None else _pools(card, task, position_of, grades)
    return Candidates(list(task.corpus), grades, pools)


def _pools(
    card: TaskCard,
    task: RetrievalTask,
    position_of: Mapping[str, int],
    grades: Sequence[Mapping[int, float]],
) -> list[np.ndarray]:
    assert task.pools is not None
    _refuse(card, "queries have no pool", [each for each in task.queries if each not in task.pools])
    names = list(task.corpus)
    pools, unknown, outside = [], [], []
    for query_id, relevant in zip(task.queries, grades, strict=True):
        pool = dict.fromkeys(task.pools[query_id])
        unknown += [f"{query_id}: {name}" for name in pool if name not in position_of]
        outside += [f"{query_id}: {names[each]}" for each in relevant if names[each] not in pool]
        found = [position_of[name] for name in pool if name in position_of]
        pools.append(np.array(found, dtype=np.int64))
    _refuse(card, "candidates are not in the corpus (query: document)", unknown)
    _refuse(card, "relevant documents are not in the pool of their query", outside)
    return pools


def _gold(card: TaskCard, task: SimilarityTask) -> np.ndarray:
    _check_metric(card, ("spearman",))
    _refuse(card, "pairs have no score", [each for each in task.pairs if each not in task.scores])
    gold = [float(task.scores[name]) for name in task.pairs]
    _refuse(
        card,
        "scores are not finite",
        [name for name, score in zip(task.pairs, gold, strict=True) if not math.isfinite(score)],
    )
    if len(set(gold)) < 2:
        raise DataError(f"{card.name}: pairs need at least two different gold scores")
    return np.array(gold)


def _check_metric(card: TaskCard, allowed: Sequence[str]) -> None:
    if card.main_metric not in allowed:
        raise DataError(
            f"{card.name}: main metric {card.main_metric!r}; one of {', '.join(allowed)}"
        )


def _refuse(card: TaskCard, problem: str, ids: Sequence[str]) -> None:
    if ids:
        raise DataError(f"{card.name}: {problem}: {named(ids)}")


def _ideal(grades: Sequence[Mapping[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """(Q, 10) the largest grades of each query, and how many it has."""
    best = np.zeros((len(grades), _DEPTH))
    for row, each in zip(best, grades, strict=True):
        largest = sorted(each.values(), reverse=True)[:_DEPTH]
        row[: len(largest)] = largest
    return best, np.array([len(each) for each in grades])


def _gains(ranking: Ranking, grades: Sequence[Mapping[int, float]]) -> np.ndarray:
    rows: Iterable[list[int]] = ranking.positions.tolist()
    return np.array(
        [
            [each.get(position, 0.0) for position in row]
            for row, each in zip(rows, grades, strict=True)
        ]
    )


def _query_results(
    query_ids: Sequence[str],
    values: Mapping[str, np.ndarray],
    ranking: Ranking,
    candidates: Candidates,
) -> tuple[QueryResult, ...]:
    by_query = np.stack(list(values.values()), axis=1).tolist()
    results = []
    for query, (positions, scores) in enumerate(
        zip(ranking.positions.tolist(), ranking.scores.tolist(), strict=True)
    ):
        kept = [(position, score) for position, score in zip(positions, scores, strict=True)]
        kept = [(position, score) for position, score in kept if position >= 0]
        results.append(
            QueryResult(
                id=query_ids[query],
                value=dict(zip(values, by_query[query], strict=True)),
                top=tuple((candidates.ids[position], score) for position, score in kept),
                relevant=tuple(position in candidates.grades[query] for position, _ in kept),
            )
        )
    return tuple(results)
