"""Training rows with clips and pages as plain JSON, and what every family of them promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmembed.data.adapter import check_adapter, check_example
from mmembed.datasets import ExampleRows
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Page, Part, Text, Video

_SMALL = MediaBudget(min_pixels=28 * 28, max_pixels=56 * 56, num_frames=2)


def described(example: ContrastiveExample, root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        "query": _item(example.query, root),
        "positives": [_item(item, root) for item in example.positives],
    }
    if example.hard_negatives:
        found["negatives"] = [_item(item, root) for item in example.hard_negatives]
    return found


def _item(item: MultimodalInput, root: Path) -> list[Any]:
    assert item.instruction is None
    return [_part(part, root) for part in item.parts]


def _part(part: Part, root: Path) -> Any:
    if isinstance(part, Text):
        return part.text
    source: Any = part.source
    if isinstance(source, bytes):
        where: Any = "in the row"
    elif isinstance(source, tuple):
        folders = {path.parent.relative_to(root).as_posix() for path in source}
        where = [*folders, *(path.name for path in source)]
    else:
        where = source.relative_to(root).as_posix()
    if isinstance(part, Image):
        return {"image": where}
    if isinstance(part, Page):
        return {"pdf": where, "pages": part.pages}
    assert isinstance(part, Video)
    shown = {"video": where, "num_frames": part.num_frames}
    return shown if part.end is None else {**shown, "seconds": [part.start, part.end]}


def check_rows(rows: ExampleRows, decoder: MediaDecoder | None = None) -> list[ContrastiveExample]:
    """Promises: usable, the same twice, ids unique and planned right, media there. All rows."""
    assert isinstance(rows, ExampleRows)
    check_adapter(rows, rows.name)
    assert rows.files and all(file.is_file() for file in rows.files)
    examples = [rows[index] for index in range(len(rows))]
    assert examples == [rows[index] for index in range(len(rows))]
    for number, example in enumerate(examples):
        check_example(example, rows.where(number))
        assert len(example.positive_ids) == len(example.positives)
        for item in (example.query, *example.positives, *example.hard_negatives):
            for part in item.parts:
                if decoder is not None and not isinstance(part, Text):
                    assert decoder.decode(part, _SMALL).frames
    ids = [example.query_id for example in examples]
    assert all(ids) and len(set(ids)) == len(ids)
    planned = getattr(rows, "document_ids", None)
    if planned is not None:
        assert [planned(index) for index in range(len(rows))] == [e.positive_ids for e in examples]
    return examples
