"""A plan's items to stored rows, and a check of everything that is stored.

plan.py -> encode_plan -> baselines.stored_vectors -> scores
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mmembed.baselines.stored_vectors import EncodeShard, StoredVectors, not_unit
from mmembed.errors import StoreError
from mmembed.evaluation.plan import Plan
from mmembed.store.vectors import EmbeddingStore

__all__ = ["encode_plan", "verify_store"]


def encode_plan(
    plan: Plan,
    vectors: StoredVectors,
    *,
    shards: Sequence[EncodeShard] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Encode in this process whatever of a plan has no row.

    Args:
        shards: default: all of the plan's.
        on_progress: called with the number of items since the last call.

    Raises:
        DataError: an item that cannot be encoded, or a row that is no unit vector.
    """
    for shard in plan.shards() if shards is None else shards:
        vectors.encode_shard(shard, [plan.items[key] for key in shard.keys])
        if on_progress:
            on_progress(len(shard.keys))


def verify_store(folder: Path) -> tuple[int, list[str]]:
    """Read every byte of every space in a folder (EV-35).

    Returns:
        Number of rows, and a sentence for each problem: damaged files, rows that are not finite or
        whose length is not 1 +- 1e-3.

    Raises:
        StoreError: no store there.
    """
    spaces = [path.parent for path in sorted(folder.glob("*/store.json"))]
    if (folder / "store.json").is_file():
        spaces.insert(0, folder)
    if not spaces:
        raise StoreError(f"{folder} holds no stored vectors (no store.json in it or one below)")
    count, problems = 0, []
    for space in spaces:
        try:
            store = EmbeddingStore(space)
        except StoreError as error:
            problems.append(str(error))
            continue
        damaged = store.verify()
        problems += [f"{space.name}: {problem}" for problem in damaged]
        if damaged:
            continue
        count += len(store)
        for number in range(store.num_shards):
            bad = not_unit(store.shard(number))
            problems += [f"{space.name}: shard {number}, row {row}: {why}" for row, why in bad]
    return count, problems
