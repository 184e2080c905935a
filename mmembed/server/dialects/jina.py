"""What Jina's embedding bodies add to OpenAI's: tasks, and outputs that this server has not."""

from __future__ import annotations

from mmembed.server.dialects.fields import Fields
from mmembed.types import Role

__all__ = ["TASKS", "jina_role", "refuse_other_outputs"]

# Only retrieval tells queries from documents; the other tasks embed both sides alike.
TASKS: dict[str, Role] = {
    "retrieval": "document",
    "retrieval.query": "query",
    "retrieval.passage": "document",
    "text-matching": "document",
    "classification": "document",
    "clustering": "document",
    "separation": "document",
    "code": "document",
    "code.query": "query",
    "code.passage": "document",
    "nl2code.query": "query",
    "nl2code.passage": "document",
    "code2code.query": "query",
    "code2code.passage": "document",
    "qa.query": "query",
    "qa.passage": "document",
}


def jina_role(fields: Fields) -> Role | None:
    """The role that `task` means; None without one."""
    task = fields.choice("task", tuple(TASKS))
    return None if task is None else TASKS[task]


def refuse_other_outputs(fields: Fields) -> None:
    """
    Raises:
        RequestError: `not_supported`: several vectors for an item, or vectors of other length.
    """
    reason = "this model gives one vector for each item; allowed: false"
    fields.only("late_chunking", [False], reason)
    fields.only("return_multivector", [False], reason)
    fields.only("normalized", [True], "vectors have length 1; allowed: true")
