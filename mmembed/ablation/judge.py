"""How good a model is on retrieval tasks: every metric is higher for a better model.

The rank of a query is that of its best relevant document in the whole corpus, where the evaluator
looks at the first ten; ties go to the document that comes first. `-ln rank`, minus the mean of the
logarithms of the ranks, is 0 for a perfect model; a difference of 0.1 in it means ranks about 10 %
lower. It uses all of every ranking and so varies less from seed to seed than a share of hits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmembed.encoder.embedder import Embedder
from mmembed.tasks import RetrievalTask

__all__ = ["METRICS", "Scores", "first_ranks", "judge", "metrics_of"]

METRICS = ("-ln rank", "MRR", "R@1", "R@10")
Scores = dict[str, dict[str, float]]  # by task and metric


def judge(model: Path, tasks: Mapping[str, RetrievalTask]) -> Scores:
    """Embed the tasks' items with a model and rank them, on the CPU."""
    with Embedder.from_pretrained(model, device="cpu") as embedder:
        return {
            title: metrics_of(
                first_ranks(
                    task,
                    embedder.encode(
                        list(task.queries.values()),
                        role="query",
                        instruction=task.query_instruction,
                        show_progress_bar=False,
                    ),
                    embedder.encode(
                        list(task.corpus.values()),
                        role="document",
                        instruction=task.document_instruction,
                        show_progress_bar=False,
                    ),
                )
            )
            for title, task in tasks.items()
        }


def metrics_of(ranks: np.ndarray) -> dict[str, float]:
    """All metrics of the ranks, counted from 1, of some queries."""
    values = (
        -np.log(ranks).mean() + 0.0,  # 0 and not -0
        (1 / ranks).mean(),
        (ranks <= 1).mean(),
        (ranks <= 10).mean(),
    )
    return dict(zip(METRICS, map(float, values), strict=True))


def first_ranks(task: RetrievalTask, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """(Q, D) and (M, D) unit rows -> (Q,) ranks of the best relevant documents, from 1.

    Raises:
        ValueError: a query without a relevant document in the corpus, or a score that is no number.
    """
    place = {name: number for number, name in enumerate(task.corpus)}
    scores = queries @ documents.T  # (Q, M), whole: these corpora are small
    if not np.isfinite(scores).all():
        raise ValueError(f"{task.name}: a score is not finite; not ranked")
    relevant = np.zeros(scores.shape, dtype=bool)
    for row, query_id in enumerate(task.queries):
        grades = task.relevant.get(query_id, {})
        columns = [place[name] for name, grade in grades.items() if grade > 0 and name in place]
        if not columns:
            raise ValueError(f"{task.name}: query {query_id!r} has no relevant document")
        relevant[row, columns] = True
    own = np.where(relevant, scores, -np.inf)
    first = own.argmax(axis=1)  # (Q,), the first of equal ones
    best = own.max(axis=1)[:, None]
    before = np.arange(len(documents)) < first[:, None]
    ranks: np.ndarray = 1 + (scores > best).sum(1) + ((scores == best) & before).sum(1)
    return ranks
