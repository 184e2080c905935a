"""Training rows as plain JSON, and what every family promises."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import PIL.Image

from mmembed.data.adapter import check_adapter, check_example
from mmembed.datasets import ExampleRows
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Part, Text

GOLDENS = Path(__file__).parents[1] / "goldens"


def described(example: ContrastiveExample, root: Path) -> dict[str, Any]:
    """What differs from a plain pair is named; ids of documents are tested by themselves."""
    found: dict[str, Any] = {
        "task": example.task,
        "query_id": example.query_id,
        "query": _item(example.query, root),
        "positives": [_item(item, root) for item in example.positives],
    }
    if example.hard_negatives:
        found["hard_negatives"] = [_item(item, root) for item in example.hard_negatives]
    if example.label is not None:
        found["label"] = example.label
        found["negative_labels"] = list(example.negative_labels)
    return found


def _item(item: MultimodalInput, root: Path) -> list[Any]:
    """The instruction, then the parts."""
    return [item.instruction, *(_part(part, root) for part in item.parts)]


def _part(part: Part, root: Path) -> Any:
    if isinstance(part, Text):
        return part.text
    assert isinstance(part, Image)
    if isinstance(part.source, Path):
        return {"image": part.source.relative_to(root).as_posix()}
    assert isinstance(part.source, bytes)
    return {"image of": list(PIL.Image.open(io.BytesIO(part.source)).size)}


def golden(name: str) -> Any:
    return json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))


def check_rows(rows: ExampleRows) -> list[ContrastiveExample]:
    """Promises: usable, the same twice, ids unique, pictures there. Gives all rows."""
    assert isinstance(rows, ExampleRows)
    check_adapter(rows, rows.name)
    assert rows.files and all(file.is_file() for file in rows.files)
    examples = [rows[index] for index in range(len(rows))]
    assert examples == [rows[index] for index in range(len(rows))]
    for number, example in enumerate(examples):
        check_example(example, rows.where(number))
        assert len(example.positive_ids) == len(example.positives)
        for item in (example.query, *example.positives, *example.hard_negatives):
            assert item.parts
            _open_pictures(item)
    ids = [example.query_id for example in examples if example.query_id]
    assert len(set(ids)) == len(ids)
    planned = getattr(rows, "document_ids", None)
    if planned is not None:
        assert [planned(index) for index in range(len(rows))] == [e.positive_ids for e in examples]
    return examples


def _open_pictures(item: MultimodalInput) -> None:
    for part in item.parts:
        if isinstance(part, Image):
            source = io.BytesIO(part.source) if isinstance(part.source, bytes) else part.source
            assert isinstance(source, io.BytesIO | Path)
            with PIL.Image.open(source) as picture:
                picture.load()
