"""Examples as plain dicts, as the goldens beside the tests have them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from mmembed.types import ContrastiveExample, MultimodalInput, Text, Url

__all__ = ["described"]


def described(example: ContrastiveExample, root: Path) -> dict[str, Any]:
    """What an example says; files by their place under `root`, bytes by their number."""
    row: dict[str, Any] = {
        "query": _item(example.query, root),
        "positives": [_item(item, root) for item in example.positives],
        "negatives": [_item(item, root) for item in example.hard_negatives],
        "task": example.task,
        "query_id": example.query_id,
        "positive_ids": list(example.positive_ids),
        "scores": None if example.scores is None else list(example.scores),
        "label": example.label,
        "negative_labels": list(example.negative_labels),
    }
    neutral = ([], None, "")
    return {key: value for key, value in row.items() if value not in neutral}


def _item(item: MultimodalInput, root: Path) -> Any:
    parts = [_part(part, root) for part in item.parts]
    found: Any = parts[0] if len(parts) == 1 else parts
    return found if item.instruction is None else {"instruction": item.instruction, "item": found}


def _part(part: Any, root: Path) -> Any:
    if isinstance(part, Text):
        return part.text
    source = part.source
    if isinstance(source, Path):
        source = source.relative_to(root).as_posix() if source.is_relative_to(root) else str(source)
    elif isinstance(source, bytes):
        source = f"{len(source)} bytes"
    elif isinstance(source, Url):
        source = source.url
    others = {f.name: getattr(part, f.name) for f in fields(part) if f.name != "source"}
    given = {name: value for name, value in others.items() if value not in (None, "uniform")}
    return {type(part).__name__.lower(): source, **given}
