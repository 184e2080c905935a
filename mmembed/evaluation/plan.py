"""What a model has to encode for a set of tasks: every distinct item once, in fixed shards.

    tasks -> make_plan -> Plan.shards() -> vectors.py -> rows of a task by Plan.rows

No model is needed. Names of files never enter, their content does: equal pictures under two names,
in two data sets, are one item.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmembed.errors import DataError, InputError
from mmembed.store.content import Digest, content_key, hash_file
from mmembed.tasks import EvaluationTask, LoadedTask, RetrievalTask, SimilarityTask, TaskCard
from mmembed.types import MultimodalInput, Role, Text

__all__ = [
    "EncodeShard",
    "Plan",
    "PlannedItem",
    "cut_shards",
    "make_plan",
    "media_files",
    "sides",
    "with_instruction",
]

# Most items of a shard by what is in them, in the order in which they are encoded: what takes long
# comes first and in small shards, so that little is lost with a process.
_SHARD_ITEMS = {"video": 32, "pdf": 64, "image": 256, "text": 2048}

# First and second rows of a task.
_SIDES = {RetrievalTask: ("query", "document"), SimilarityTask: ("first", "second")}


@dataclass(frozen=True)
class PlannedItem:
    """An item to encode, and where it was seen first.

    Attributes:
        task, side, id: `side` is `query`, `document`, `first` or `second`.
        key: of the content, the role and the instruction.
        item: with its instruction.
    """

    task: str
    side: str
    id: str
    role: Role
    key: str
    item: MultimodalInput

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.side} {self.id!r} of {self.task}" if self.task else f"item {self.id}"


@dataclass(frozen=True)
class EncodeShard:
    """Items that are encoded and committed together.

    Attributes:
        places: (task, side, id) of each key.
    """

    index: int
    role: Role
    keys: tuple[str, ...]
    places: tuple[tuple[str, str, str], ...]


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


def with_instruction(item: MultimodalInput, instruction: str | None) -> MultimodalInput:
    """The item with the task's instruction, unless it brings its own."""
    if instruction is None or item.instruction is not None:
        return item
    return MultimodalInput(item.parts, instruction)


def cut_shards(items: Sequence[PlannedItem]) -> list[EncodeShard]:
    """Shards of one role and one kind of item, in the order of the items."""
    groups: dict[tuple[str, Role], list[PlannedItem]] = {}
    for item in items:
        groups.setdefault((_kind(item.item), item.role), []).append(item)
    shards: list[EncodeShard] = []
    for kind, most in _SHARD_ITEMS.items():
        for role in ("query", "document"):
            group = groups.get((kind, role), [])
            for begin in range(0, len(group), most):
                part = group[begin : begin + most]
                places = tuple((item.task, item.side, item.id) for item in part)
                keys = tuple(item.key for item in part)
                shards.append(EncodeShard(len(shards), role, keys, places))
    return shards


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


def _kind(item: MultimodalInput) -> str:
    """What decides how long it takes."""
    kinds = item.modality.split("+")
    return next(kind for kind in _SHARD_ITEMS if kind in kinds)


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
