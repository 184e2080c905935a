"""A fixed part of a task, small enough for minutes: the same on every machine and in any order.

What is kept is decided by sha256 of the task's name and the id, so neither the order of the source
nor the rest of the data moves it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from pydantic import Field

from mmembed.config.validation import StrictModel
from mmembed.tasks import EvaluationTask, RetrievalTask, SimilarityTask, TaskCard

__all__ = ["Subset", "subset_card", "subset_task"]


class Subset(StrictModel):
    """How much of a task is kept.

    Attributes:
        queries: (or pairs) of each task.
        documents: of a corpus that all queries share: the relevant documents of the queries that
            are kept, all of them, then distractors up to this number. A pool is kept whole, since
            its task would be another one with a part of it.
    """

    queries: int = Field(ge=1)
    documents: int = Field(ge=1)


def subset_card(card: TaskCard, subset: Subset) -> TaskCard:
    """The card of the part: it says what it is and promises no counts."""
    note = f"subset: at most {subset.queries} queries and {subset.documents} documents of a corpus"
    return replace(
        card,
        num_queries=None,
        num_documents=None,
        note=f"{note}; {card.note}" if card.note else note,
    )


def subset_task(task: EvaluationTask, subset: Subset) -> EvaluationTask:
    """The part of a task; items stay in the order of the source."""
    if isinstance(task, SimilarityTask):
        kept = _lowest(task.name, "pair", task.pairs, subset.queries)
        return replace(
            task,
            pairs={name: pair for name, pair in task.pairs.items() if name in kept},
            scores={name: score for name, score in task.scores.items() if name in kept},
        )
    kept = _lowest(task.name, "query", task.queries, subset.queries)
    relevant = {name: grades for name, grades in task.relevant.items() if name in kept}
    if task.pools is not None:
        pools = {name: pool for name, pool in task.pools.items() if name in kept}
        wanted = {document for pool in pools.values() for document in pool}
    else:
        pools = None
        wanted = {
            document
            for grades in relevant.values()
            for document in grades
            if document in task.corpus
        }
        others = [document for document in task.corpus if document not in wanted]
        wanted |= _lowest(task.name, "document", others, subset.documents - len(wanted))
    return RetrievalTask(
        name=task.name,
        queries={name: item for name, item in task.queries.items() if name in kept},
        corpus={name: item for name, item in task.corpus.items() if name in wanted},
        relevant=relevant,
        query_instruction=task.query_instruction,
        document_instruction=task.document_instruction,
        pools=pools,
    )


def _lowest(task: str, kind: str, names: Iterable[str], count: int) -> set[str]:
    """The `count` names with the lowest hashes."""
    if count <= 0:
        return set()

    def order(name: str) -> str:
        fields = b"\0".join(part.encode("utf-8", "surrogatepass") for part in (task, kind, name))
        return hashlib.sha256(fields).hexdigest()

    return set(sorted(names, key=order)[:count])
