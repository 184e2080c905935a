"""The queries that a run answers worst, as cards, and how modalities find each other.

Results hold ids; what they stand for is read again from the suite's data. Without the data the
cards show the ids and say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from mmembed.evaluation.results import QueryResult, RunResults, TaskResult, TiePolicy
from mmembed.html.item_cards import item_card
from mmembed.html.page import Card, Example, Hit, Matrix
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.tasks import EvaluationTask, LoadedTask, RetrievalTask
from mmembed.types import MultimodalInput

__all__ = ["modality_matrix", "worst_examples", "worst_queries"]

_HITS = 5
_SHOWN_IDS = 5


def worst_queries(
    result: TaskResult, num: int, ties: TiePolicy = "pessimistic"
) -> tuple[QueryResult, ...]:
    """Lowest value first; of equal ones the query whose first wrong document scores highest.

    Only of rankings, and only those below the full value.
    """
    ranked = [query for query in result.queries if query.top and query.value[ties] < 1]

    def order(query: QueryResult) -> tuple[float, float, str]:
        wrong = [
            score for (_, score), hit in zip(query.top, query.relevant, strict=True) if not hit
        ]
        return query.value[ties], -max(wrong, default=-1.0), query.id

    return tuple(sorted(ranked, key=order)[:num])


def worst_examples(
    run: RunResults,
    tasks: Mapping[str, LoadedTask],
    *,
    ties: TiePolicy = "pessimistic",
    per_task: int = 1,
    num_tasks: int = 24,
) -> tuple[Example, ...]:
    """The worst queries of the tasks with the lowest values.

    Args:
        tasks: of the suite, read again; one that is not there shows its ids.
    """
    shown: list[Example] = []
    names = sorted(run.tasks, key=lambda name: (run.tasks[name].value(ties), name))
    with MediaDecoder() as decoder:
        for name in names:
            chosen = worst_queries(run.tasks[name], per_task, ties)
            if not chosen or len(shown) >= num_tasks * per_task:
                continue
            task = tasks[name].task if name in tasks else None
            shown += [_example(name, query, task, decoder, ties) for query in chosen]
    return tuple(shown)


def _example(
    name: str,
    query: QueryResult,
    task: EvaluationTask | None,
    decoder: MediaDecoder,
    ties: TiePolicy,
) -> Example:
    queries, corpus = (task.queries, task.corpus) if isinstance(task, RetrievalTask) else ({}, {})
    hits = tuple(
        Hit(_card(corpus, document, decoder), score, relevant)
        for (document, score), relevant in zip(query.top, query.relevant, strict=True)
    )[:_HITS]
    comment = ""
    if isinstance(task, RetrievalTask) and not any(hit.is_relevant for hit in hits):
        answers = [each for each, grade in task.relevant.get(query.id, {}).items() if grade > 0]
        more = ", ..." if len(answers) > _SHOWN_IDS else ""
        comment = f"right would be: {', '.join(answers[:_SHOWN_IDS])}{more}"
    title = f"{name}: {100 * query.value[ties]:.0f}"
    return Example(title, _card(queries, query.id, decoder), hits, comment)


def _card(items: Mapping[str, MultimodalInput], name: str, decoder: MediaDecoder) -> Card:
    item = items.get(name)
    return Card(caption=name) if item is None else item_card(item, decoder, caption=name)


def modality_matrix(
    run: RunResults, tasks: Mapping[str, LoadedTask], ties: TiePolicy = "pessimistic"
) -> Matrix | None:
    """Mean main value of the tasks by the modality of queries (rows) and documents (columns).

    A task counts under the most frequent modality of each side. None below two cells.
    """
    cells: dict[tuple[str, str], list[float]] = {}
    for name, loaded in tasks.items():
        task = loaded.task
        if name in run.tasks and isinstance(task, RetrievalTask) and not loaded.missing:
            place = (_modality(task.queries), _modality(task.corpus))
            cells.setdefault(place, []).append(run.tasks[name].value(ties))
    if len(cells) < 2:
        return None
    rows = tuple(sorted({row for row, _ in cells}))
    columns = tuple(sorted({column for _, column in cells}))
    counts = ", ".join(
        f"{row} in {column}: {len(values)}" for (row, column), values in sorted(cells.items())
    )
    return Matrix(
        title="Modality of queries by modality of documents",
        rows=rows,
        columns=columns,
        values=tuple(
            tuple(
                sum(values) / len(values) if (values := cells.get((row, column))) else None
                for column in columns
            )
            for row in rows
        ),
        comment=f"Mean of the main values; each cell has other data sets, so cells are no ranking "
        f"of modalities. Data sets: {counts}.",
    )


def _modality(items: Mapping[str, MultimodalInput]) -> str:
    counted = Counter(item.modality for item in items.values())
    return min(counted, key=lambda name: (-counted[name], name)) if counted else "nothing"
