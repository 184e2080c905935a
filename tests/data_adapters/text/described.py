"""Examples of texts as plain JSON, for goldens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmembed.types import ContrastiveExample, MultimodalInput, Text

GOLDENS = Path(__file__).parents[1] / "goldens"


def golden(name: str) -> Any:
    return json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))


def words(item: MultimodalInput) -> str:
    (part,) = item.parts
    assert isinstance(part, Text)
    return part.text


def described(example: ContrastiveExample) -> dict[str, Any]:
    """What is not empty; ids of documents are compared elsewhere."""
    found = {
        "query_id": example.query_id,
        "query": words(example.query),
        "instruction": example.query.instruction,
        "positives": list(map(words, example.positives)),
        "negatives": list(map(words, example.hard_negatives)),
        "label": example.label,
        "negative_labels": list(example.negative_labels),
        "scores": None if example.scores is None else list(example.scores),
    }
    return {key: value for key, value in found.items() if value not in (None, [], "")}
