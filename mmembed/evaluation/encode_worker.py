"""Encodes the shards of a plan in processes of their own, one for each GPU.

`python -m mmembed.evaluation.encode_worker`, started by `search/processes.py`: each process makes
the items of a shard again from suite, data root and profile, and commits their rows to the store.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmembed.baselines.item_encoder import ItemEncoder
from mmembed.baselines.stored_vectors import (
    EncodeShard,
    PlannedItem,
    StoredVectors,
    with_instruction,
)
from mmembed.errors import DataError, StoreError
from mmembed.evaluation.plan import sides
from mmembed.evaluation.profiles import parse_profile
from mmembed.evaluation.references import resolve
from mmembed.evaluation.suites import OpenSuite, load_suite
from mmembed.search.worker_protocol import ProcessSpec, Reply, serve
from mmembed.store.file_hashes import FileHashes
from mmembed.types import MultimodalInput

__all__ = ["EncodeSpec", "EncodeWorker", "Encoded", "encode_with_processes", "load_encoder"]

_PROGRAM = "mmembed.evaluation.encode_worker"


class EncodeSpec(ProcessSpec):
    """All that a process needs to know.

    Attributes:
        loader: `package.module:name` of what makes the encoder; called as `load_model` is.
        template: of the profile, for checkpoints without one of their own.
        store: folder of all spaces.
        profile: all its fields.
        hashes: database of hashes of files.
    """

    loader: str
    dtype: str | None = None
    template: str | None = None
    store: str
    suite: str
    root: str | None = None
    profile: dict[str, Any]
    allow_missing: bool = False
    hashes: str | None = None


@dataclass(frozen=True)
class Encoded:
    """What encoding a plan has come to.

    Attributes:
        description: of the model.
        count: of rows that were encoded.
        truncated: how often the model cut what it encoded; None where it does not count.
    """

    space: str
    dimension: int
    description: Mapping[str, Any]
    count: int
    truncated: int | None


class EncodeWorker:
    """One loaded model that encodes shard after shard of one suite."""

    def __init__(self, spec: EncodeSpec) -> None:
        self.spec = spec
        self.encoder = load_encoder(spec)
        hashes = FileHashes(None if spec.hashes is None else Path(spec.hashes))
        self.vectors = StoredVectors(self.encoder, Path(spec.store), digest=hashes)
        profile = parse_profile(spec.profile, where="the profile")
        root = None if spec.root is None else Path(spec.root)
        self._suite: OpenSuite = load_suite(spec.suite).open(root, profile)
        self._items: dict[str, dict[tuple[str, str], MultimodalInput]] = {}

    def ready(self) -> Reply:
        """What the model is."""
        space = (self.encoder.space, self.encoder.embedding_dimension)
        return Reply(space, {"model": self.encoder.name, **self.encoder.describe()})

    def encode(self, shard: EncodeShard) -> Reply:
        """Commit the rows of a shard that are missing.

        Raises:
            DataError: an item that cannot be encoded or is not the planned one.
        """
        encoded, before = 0, self.vectors.num_truncated
        if self.vectors.lacks(shard.keys):  # else its tasks need not be read
            items = [
                PlannedItem(task, side, item, shard.role, key, self._item(task, side, item))
                for key, (task, side, item) in zip(shard.keys, shard.places, strict=True)
            ]
            encoded = self.vectors.encode_shard(shard, items)
        truncated = self.vectors.num_truncated
        cut = None if truncated is None else truncated - (before or 0)
        space = (self.encoder.space, self.encoder.embedding_dimension)
        return Reply(space, {"encoded": encoded, "truncated": cut}, shard=shard.index)

    def _item(self, task: str, side: str, item_id: str) -> MultimodalInput:
        if task not in self._items:
            loaded = self._suite.load(task, allow_missing=self.spec.allow_missing)
            self._items[task] = {
                (name, place): with_instruction(item, instruction)
                for name, _, instruction, items in sides(loaded.task)
                for place, item in items.items()
            }
        try:
            return self._items[task][side, item_id]
        except KeyError:
            raise DataError(
                f"{task}: {side} {item_id!r} of the plan is gone; the data changed, run again"
            ) from None


def load_encoder(spec: EncodeSpec) -> ItemEncoder:
    """The model of a run."""
    encoder: ItemEncoder = resolve(spec.loader)(
        spec.model,
        device=spec.device,
        dtype=spec.dtype,
        profile_template=spec.template,
        num_workers=spec.num_workers,
    )
    return encoder


def encode_with_processes(
    spec: EncodeSpec,
    shards: Sequence[EncodeShard],
    processes: int,
    *,
    on_ready: Callable[[str], None],
    on_progress: Callable[[int], None],
) -> Encoded:
    """Encode shards in several processes of this machine.

    Args:
        on_ready: called with the space of the model before anything is encoded; may refuse it.
        on_progress: called with the number of items since the last call.

    Raises:
        ConfigError: an item that cannot be encoded, a model that cannot be loaded.
        StoreError: a shard whose process died twice.
    """
    from mmembed.search.processes import encode_in_processes

    space: tuple[str, int] | None = None
    description: Mapping[str, Any] = {}
    records: list[Mapping[str, Any]] = []
    problems: list[str] = []
    sizes = {shard.index: len(shard.keys) for shard in shards}
    replies: Generator[Reply] = encode_in_processes(spec, shards, processes, program=_PROGRAM)
    try:
        for reply in replies:
            if reply.problem is not None:
                problems.append(f"shard {reply.shard}: {reply.problem}")
            elif reply.shard is None:
                space, description = reply.space, reply.record or {}
                on_ready(space[0] if space else "")
            else:
                records.append(reply.record or {})
                on_progress(sizes[reply.shard])
    finally:
        replies.close()
    if problems or space is None:
        hint = "; if memory is short, use fewer --processes" if "signal 9" in str(problems) else ""
        raise StoreError(
            f"{len(problems)} shards were not encoded; what is done is kept, run again{hint}. "
            + "; ".join(problems[:8])
        )
    cut = [record["truncated"] for record in records if record["truncated"] is not None]
    return Encoded(
        *space,
        description,
        sum(record["encoded"] for record in records),
        sum(cut) if len(cut) == len(records) else None,
    )


def _load(fields: Any) -> tuple[Reply, Callable[[Any], Reply]]:
    spec = EncodeSpec(**fields)
    worker = EncodeWorker(spec)  # OMP_NUM_THREADS has set its threads

    def encode(shard: Any) -> Reply:
        places = tuple((task, side, item) for task, side, item in shard["places"])
        return worker.encode(
            EncodeShard(shard["index"], shard["role"], tuple(shard["keys"]), places)
        )

    return worker.ready(), encode


if __name__ == "__main__":
    serve(_load)
