"""From the journal to rows: one line of `rows.jsonl` or `rejected.jsonl` for each input row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmembed.data.row_files import RowWriter
from mmembed.errors import InputError
from mmembed.inspection.content import hash_of_text
from mmembed.inspection.near_texts import TextColumn
from mmembed.store.durable import sync_folder, write_atomically
from mmembed.synthesis.journal import Journal
from mmembed.synthesis.pipeline import OutputItem, Pipeline
from mmembed.synthesis.rows import InputRow, InputRows
from mmembed.synthesis.templates import MissingField, render
from mmembed.synthesis.texts import normalized
from mmembed.types import ContrastiveExample, MultimodalInput, Part, Text, Video

__all__ = ["Published", "new_example", "publish"]

ROWS, REJECTED = "rows.jsonl", "rejected.jsonl"


@dataclass(frozen=True)
class Published:
    num_rows: int
    num_rejected: int
    num_duplicates: int


def publish(
    pipeline: Pipeline, rows: InputRows, indices: range, journal: Journal, out: Path
) -> Published:
    """Write both files anew, in the order of the input; rows that are not done are left out."""
    temporary = out / f".tmp-{ROWS}"
    temporary.unlink(missing_ok=True)
    rejected: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    num_duplicates = 0
    repeated = _near_repeats(pipeline, rows, indices, journal)
    shared = _shared_provenance(pipeline)
    with RowWriter(temporary) as writer:
        for index in indices:
            record = journal.row(str(index))
            if record is None:
                fault = _fault_of(rows, index)
                if fault is not None:
                    rejected.append(_rejection(index, {"id": "", "fields": {}}, f"input: {fault}"))
                continue
            reason = record["problem"]
            if reason is None:
                row = rows[index]
                fields = {**row.fields(), **record["fields"]}
                try:
                    example = new_example(pipeline, row, fields)
                except (MissingField, InputError) as problem:
                    reason = f"output: {problem}"
            if reason is None:
                text = normalized(_query_text(pipeline, fields))
                first = seen.setdefault(text, index) if text else index
                if first == index and index not in repeated:
                    writer.write(example, **_provenance(pipeline, shared, record, journal))
                    continue
                num_duplicates += 1
                kind = "the same" if first != index else "nearly the same"
                original = first if first != index else repeated[index]
                reason = f"output: {kind} query as of {rows[original].id}"
            rejected.append(_rejection(index, record, reason))
        num_rows = writer.num_rows
    temporary.replace(out / ROWS)
    sync_folder(out)
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in rejected)
    write_atomically(out / REJECTED, lines.encode("utf-8", errors="replace"))
    return Published(num_rows, len(rejected), num_duplicates)


def _rejection(index: int, record: Mapping[str, Any], reason: str) -> dict[str, Any]:
    answers = {name: value for name, value in record["fields"].items() if "." in name}
    return {"id": record["id"], "row": index, "reason": reason, "answers": answers}


def new_example(pipeline: Pipeline, row: InputRow, fields: Mapping[str, Any]) -> ContrastiveExample:
    """The row that the output section describes.

    Raises:
        MissingField: the input row lacks an item or a field.
        InputError: what was written makes no item.
    """
    output = pipeline.output
    kept = row.example.hard_negatives if row.example and output.keep_negatives else ()
    negatives = tuple(_item(entry, row, fields) for entry in output.negatives)
    labels = tuple(render(label, fields) for label in output.negative_labels)
    if row.example and kept:
        labels += row.example.negative_labels
    is_own = all(entry == OutputItem(item="document") for entry in output.positives)
    ids = row.example.positive_ids[:1] if row.example and is_own else ()
    return ContrastiveExample(
        query=_item(output.query, row, fields),
        positives=tuple(_item(entry, row, fields) for entry in output.positives),
        hard_negatives=(*negatives, *kept),
        task=output.task,
        query_id=row.id,
        positive_ids=ids if len(output.positives) == len(ids) else (),
        label=render(output.label, fields) if output.label else None,
        negative_labels=labels if len(labels) == len(negatives) + len(kept) else (),
        scores=_kept_scores(row.example, len(kept)) if row.example and output.keep_scores else None,
    )


def _kept_scores(example: ContrastiveExample, num_negatives: int) -> tuple[float, ...] | None:
    """Those of the input's first positive and kept negatives."""
    if example.scores is None:
        return None
    first = len(example.positives)
    return (example.scores[0], *example.scores[first : first + num_negatives])


def _item(entry: OutputItem, row: InputRow, fields: Mapping[str, Any]) -> MultimodalInput:
    parts: list[Part] = []
    instruction = None
    if entry.item is not None:
        given = {"query": row.query, "document": row.document, "negative": row.negative}[entry.item]
        if given is None:
            raise MissingField(f"the row has no {entry.item}")
        parts, instruction = list(given.parts), given.instruction
    if entry.start is not None and entry.end is not None:
        span = float(render(entry.start, fields)), float(render(entry.end, fields))
        parts = [_cut(part, *span) for part in parts]
    if entry.text is not None:
        parts.append(Text(render(entry.text, fields)))
    if entry.instruction is not None:
        instruction = render(entry.instruction, fields)
    return MultimodalInput(tuple(parts), instruction)


def _cut(part: Part, start: float, end: float) -> Part:
    if not isinstance(part, Video):
        return part
    offset = part.start or 0.0
    return replace(part, start=offset + start, end=offset + end)


def _query_text(pipeline: Pipeline, fields: Mapping[str, Any]) -> str:
    """What tells a repeated row: its query, where it is a text and nothing else."""
    query = pipeline.output.query
    if not pipeline.deduplicate or query.item is not None or query.text is None:
        return ""
    return render(query.text, fields)


def _near_repeats(
    pipeline: Pipeline, rows: InputRows, indices: range, journal: Journal
) -> dict[int, int]:
    """Of rows whose query nearly repeats that of an earlier row, that row."""
    if pipeline.near_duplicates is None:
        return {}

    def query(index: int) -> str:
        record = journal.row(str(index))
        if record is None or record["problem"] is not None:
            return ""
        try:
            return _query_text(pipeline, {**rows[index].fields(), **record["fields"]})
        except MissingField:
            return ""

    column = TextColumn()
    for index in indices:
        text = query(index)
        column.add(text, hash_of_text(normalized(text)), index)
    found = column.near(query, threshold=pipeline.near_duplicates)
    return {index: earlier for index, earlier, _ in found}


def _fault_of(rows: InputRows, index: int) -> str | None:
    """Why a row that is not done never will be."""
    try:
        rows[index]
    except InputError as error:
        return str(error)
    return None


def _shared_provenance(pipeline: Pipeline) -> dict[str, Any]:
    return {
        "pipeline": pipeline.fingerprint[:16],
        "prompts": pipeline.prompt_hash(),
        "seed": pipeline.seed,
    }


def _provenance(
    pipeline: Pipeline, shared: Mapping[str, Any], record: Mapping[str, Any], journal: Journal
) -> dict[str, Any]:
    steps = []
    for spent in record["requests"]:
        answer = journal.answer(spent["key"])
        assert answer is not None
        steps.append(
            {
                "step": spent["step"],
                "model": answer["model"],
                "request": spent["key"],
                "at": answer["at"],
                "tries": spent["tries"],
                "input_tokens": answer["input_tokens"],
                "output_tokens": answer["output_tokens"],
            }
        )
    return {
        "synthesis": {
            **shared,
            "source": record["id"],
            "draws": {name: record["fields"][name] for name in pipeline.draws},
            "steps": steps,
        }
    }
