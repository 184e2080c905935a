"""FlagEmbedding's JSON lines: `query`, `pos`, `neg`, `pos_scores`, `neg_scores`, `prompt`, `type`.

Layout: FlagOpen/FlagEmbedding, examples/finetune/embedder/README.md, "Data format". BGE
collections and what `hn_mine.py` and `add_reranker_score.py` write have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_adapters.formats.rows import FormatRows, number_of, text_item, texts_of
from mmembed.errors import InputError
from mmembed.types import ContrastiveExample, Task

__all__ = ["FlagEmbedding"]

_TASKS: dict[str, Task] = {
    "symmetric_sts": "sts",
    "symmetric_class": "classification",
    "symmetric_clustering": "clustering",
}


class FlagEmbedding(FormatRows):
    """`prompt` becomes the instruction of the query, `type` of the first row the task."""

    @classmethod
    def matches(cls, columns: Sequence[str], row: Mapping[str, Any]) -> bool:
        return {"query", "pos"} <= set(columns)

    def task_of(self, row: Mapping[str, Any]) -> Task:
        return _TASKS.get(str(row.get("type")), "retrieval")

    def parse(self, row: dict[str, Any]) -> ContrastiveExample:
        positives = texts_of(row.get("pos"), "pos")
        negatives = texts_of(row.get("neg"), "neg")
        if not positives:
            raise InputError("empty", f"no pos; found {', '.join(row)}")
        self.check_task(row, "type")
        prompt = row.get("prompt")
        if prompt is not None and not isinstance(prompt, str):
            raise InputError("invalid_type", f"prompt: found {type(prompt).__name__}, not a text")
        return ContrastiveExample(
            query=self.item(row.get("query"), "query", prompt or None),
            positives=tuple(map(text_item, positives)),
            hard_negatives=tuple(map(text_item, negatives)),
            task=self.task,
            scores=_scores(row, len(positives), len(negatives)),
        )


def _scores(
    row: Mapping[str, Any], num_positives: int, num_negatives: int
) -> tuple[float, ...] | None:
    """Teacher scores; a file without them has no such columns, or empty ones."""
    scores: list[float] = []
    given = [row.get("pos_scores"), row.get("neg_scores")]
    if not any(given):
        return None
    for name, values, count in zip(
        ("pos_scores", "neg_scores"), given, (num_positives, num_negatives), strict=True
    ):
        values = [] if values is None else values
        if not isinstance(values, list) or len(values) != count:
            found = len(values) if isinstance(values, list) else type(values).__name__
            raise InputError("invalid_type", f"{name}: found {found}; expected {count} numbers")
        scores += [number_of(value, name) for value in values]
    return tuple(scores)
