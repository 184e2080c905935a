"""What a model has to encode for a set of tasks: every distinct item once, in fixed shards.

    tasks -> make_plan -> Plan.shards() -> vectors.py -> rows of a task by Plan.rows

No model is needed. Names of files never enter, their content does: equal pictures under two names,
in two data sets, are one item.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmembed.baselines.stored_vectors import (
    EncodeShard,
    PlannedItem,
    cut_shards,
    with_instruction,
)
from mmembed.errors import DataError, InputError
from mmembed.store.content import Digest, content_key, hash_file
from mmembed.tasks import EvaluationTask, LoadedTask, RetrievalTask, SimilarityTask, TaskCard
from mmembed.types import MultimodalInput, Role, Text

__all__ = ["Plan", "make_plan", "media_files", "sides"]

# First and second rows of a task.
_SIDES = {RetrievalTask: ("query", "document"), SimilarityTask: ("first", "second")}


@dataclass(frozen=True)
class Plan:
    """What tasks ask of a model.

    Attributes:
        items: by key, in the order of their first appearance.
        rows: task -> keys of its queries and of its corpus (of both sides of its pairs), in order.
        tasks: task -> hash of all that decides its result except the model.
        asked: items, with repetitions.
    """

    items: Mapping[str, PlannedItem] = field(default_factory=dict)
    rows: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    tasks: Mapping[str, str] = field(default_factory=dict)
    asked: int = 0

    @property
    def sha256(self) -> str:
        """Of the tasks, whatever their order."""
        return _sha256(dict(self.tasks))

    def shards(self) -> list[EncodeShard]:
        """A function of the plan alone: neither of processes nor of what is stored already."""
        return cut_shards(list(self.items.values()))


def make_plan(
    tasks: Mapping[str, tuple[TaskCard, LoadedTask]],
    *,
    digest: Digest = hash_file,
    on_progress: Callable[[int], None] | None = None,
) -> Plan:
    """Name every item by its content.

    Args:
        digest: sha256 of a file; one that remembers saves reading all media again.
        on_progress: called with the number of tasks since the last call.

    Raises:
        DataError: an item whose file cannot be read; names task, item and file.
    """
    items: dict[str, PlannedItem] = {}
    rows: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    hashes: dict[str, str] = {}
    asked = 0
    for name, (card, loaded) in tasks.items():
        known: dict[tuple[int, Role], str] = {}
        found: list[tuple[str, ...]] = []
        for side, role, instruction, entries in sides(loaded.task):
            keys = []
            for item_id, plain in entries.items():
                seen = (id(plain), role)  # several entries may hold one object
                if seen not in known:
                    item = with_instruction(plain, instruction)
                    key = _key(item, role, digest, f"{name}: {side} {item_id!r}")
                    items.setdefault(key, PlannedItem(name, side, item_id, role, key, item))
                    known[seen] = key
                keys.append(known[seen])
            asked += len(keys)
            found.append(tuple(keys))
        rows[name] = (found[0], found[1])
        hashes[name] = _task_hash(card, loaded, rows[name])
        if on_progress:
            on_progress(1)
    return Plan(items, rows, hashes, asked)


def sides(
    task: EvaluationTask,
) -> Iterator[tuple[str, Role, str | None, Mapping[str, MultimodalInput]]]:
    """(side, role, instruction, items by id) of both sides of a task."""
    first, second = _SIDES[type(task)]
    if isinstance(task, RetrievalTask):
        yield first, "query", task.query_instruction, task.queries
        yield second, "document", task.document_instruction, task.corpus
    else:
        yield first, "query", task.instruction, {k: pair[0] for k, pair in task.pairs.items()}
        yield second, "query", task.instruction, {k: pair[1] for k, pair in task.pairs.items()}


def media_files(task: EvaluationTask) -> dict[str, set[Path]]:
    """The distinct files of each kind (`image`, `frame`, `video`, `pdf`) that a task names."""
    found: dict[str, set[Path]] = {}
    for item in (item for _, _, _, items in sides(task) for item in items.values()):
        for part in item.parts:
            if isinstance(part, Text):
                continue
            kind = type(part).__name__.lower().replace("page", "pdf")
            if isinstance(part.source, tuple):
                found.setdefault("frame", set()).update(
                    frame for frame in part.source if isinstance(frame, Path)
                )
            elif isinstance(part.source, Path):
                found.setdefault(kind, set()).add(part.source)
    return found


def _key(item: MultimodalInput, role: Role, digest: Digest, where: str) -> str:
    try:
        return content_key(item, role, digest=digest)
    except InputError as error:
        raise DataError(f"{where}: {error}") from None


def _task_hash(
    card: TaskCard, loaded: LoadedTask, rows: tuple[tuple[str, ...], tuple[str, ...]]
) -> str:
    task = loaded.task
    fields: dict[str, object] = {
        "card": asdict(card),
        "missing": list(loaded.missing),
        "keys": [_sha256(list(keys)) for keys in rows],
    }
    if isinstance(task, RetrievalTask):
        fields["ids"] = [_sha256(list(task.queries)), _sha256(list(task.corpus))]
        fields["relevant"] = _sha256({name: dict(task.relevant[name]) for name in task.relevant})
        pools = task.pools
        fields["pools"] = pools and _sha256({name: list(pools[name]) for name in pools})
    else:
        fields["ids"] = _sha256(list(task.pairs))
        fields["scores"] = _sha256(dict(task.scores))
    return _sha256(fields)


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()
