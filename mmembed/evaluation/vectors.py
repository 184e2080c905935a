"""The encode layer: items to rows that are kept under the model's space and the items' content.

    plan.py -> encode_plan: shards that have missing rows -> ItemEncoder -> EmbeddingStore -> scores

A shard is one call of the encoder and is committed at once. What is batched together, and so every
byte of a row, depends on the plan alone: neither on processes nor on how often a run was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mmembed.baselines.item_encoder import ItemEncoder
from mmembed.errors import DataError, InputError, StoreError
from mmembed.evaluation.plan import EncodeShard, Plan, PlannedItem, cut_shards
from mmembed.store.content import Digest, content_key
from mmembed.store.file_hashes import FileHashes
from mmembed.store.vectors import EmbeddingStore
from mmembed.types import MultimodalInput, Role

__all__ = ["StoredVectors", "encode_plan", "open_space", "space_folder", "verify_store"]

_TOLERANCE = 1e-3
_SHOWN = 8


class StoredVectors:
    """Rows of one model by content: found again, or encoded and kept.

    Args:
        folder: holds one store for each space; None keeps rows in memory only.
        digest: sha256 of a file; default: read once for this object.

    Attributes:
        num_encoded: rows that were encoded through this object.
        num_found: distinct items that had a row when they were asked for first.
    """

    def __init__(
        self, encoder: ItemEncoder, folder: Path | None = None, *, digest: Digest | None = None
    ) -> None:
        self.encoder = encoder
        self.num_encoded = 0
        self.num_found = 0
        self.digest: Digest = digest or FileHashes()
        self._truncated_before = getattr(encoder, "num_truncated", 0)
        self._memory: dict[str, np.ndarray] = {}
        self._counted: set[str] = set()
        self.store = (
            None
            if folder is None
            else open_space(folder, encoder.space, encoder.embedding_dimension)
        )

    @property
    def num_truncated(self) -> int | None:
        """How often the encoder cut what it encoded here; None for one that does not count."""
        found: int | None = getattr(self.encoder, "num_truncated", None)
        return None if found is None else found - self._truncated_before

    def ensure(
        self,
        items: Sequence[MultimodalInput],
        role: Role,
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Encode what has no row yet; called with equal items, encodes nothing.

        Args:
            on_progress: called with the number of distinct items since the last call.

        Raises:
            DataError: an item that cannot be encoded, or a row that is no unit vector.
        """
        self._ensure(items, self._keys(items, role), role, on_progress)

    def rows(self, items: Sequence[MultimodalInput], role: Role) -> np.ndarray:
        """(N, D) float32, in order; encodes what is missing."""
        keys = self._keys(items, role)
        self._ensure(items, keys, role, None)
        return self.get(keys)

    def get(self, keys: Sequence[str]) -> np.ndarray:
        """(N, D) float32 rows by key. KeyError for one that has none."""
        if self.store is not None:
            return self.store.get(keys)
        found = np.empty((len(keys), self.encoder.embedding_dimension), dtype=np.float32)
        for number, key in enumerate(keys):
            found[number] = self._memory[key]
        return found

    def lacks(self, keys: Sequence[str]) -> bool:
        """Whether some have no row yet, those counted that other processes committed."""
        if self.store is not None:
            self.store.refresh()
        return not all(map(self._has, keys))

    def encode_shard(self, shard: EncodeShard, items: Sequence[PlannedItem]) -> int:
        """Encode those of a shard that have no row, and commit them; returns how many.

        Args:
            items: of the shard, in its order.

        Raises:
            DataError: naming every item of the shard that failed.
        """
        if self.store is not None:
            self.store.refresh()  # other processes may have been faster
        missing = [item for item in items if not self._has(item.key)]
        for item in items:
            if item.key not in self._counted:
                self._counted.add(item.key)
                self.num_found += self._has(item.key)
        if not missing:
            return 0
        rows = _encode(self.encoder, missing, shard.role)
        self._check_unchanged(missing)
        keys = [item.key for item in missing]
        if self.store is not None:
            self.store.add(keys, rows)
        else:
            self._memory.update(zip(keys, rows, strict=True))
        self.num_encoded += len(missing)
        return len(missing)

    def _ensure(
        self,
        items: Sequence[MultimodalInput],
        keys: Sequence[str],
        role: Role,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        planned: dict[str, PlannedItem] = {}
        for place, (key, item) in enumerate(zip(keys, items, strict=True)):
            planned.setdefault(key, PlannedItem("", "", str(place), role, key, item))
        for shard in cut_shards(list(planned.values())):
            self.encode_shard(shard, [planned[key] for key in shard.keys])
            if on_progress:
                on_progress(len(shard.keys))

    def _keys(self, items: Sequence[MultimodalInput], role: Role) -> list[str]:
        keys = []
        for place, item in enumerate(items):
            try:
                keys.append(content_key(item, role, digest=self.digest))
            except InputError as error:
                raise DataError(str(error.at(place))) from None
        return keys

    def _has(self, key: str) -> bool:
        return key in (self._memory if self.store is None else self.store)

    def _check_unchanged(self, items: Sequence[PlannedItem]) -> None:
        """A file that was replaced while it was encoded must not get a row under its old name."""
        for item in items:
            if content_key(item.item, item.role, digest=self.digest) != item.key:
                raise DataError(f"{item.name} has changed since the plan was made; run again")


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


def space_folder(folder: Path, space: str) -> Path:
    """Where rows of a space are."""
    return folder / space[:16]


def open_space(folder: Path, space: str, dimension: int | None = None) -> EmbeddingStore:
    """The store of one model.

    Args:
        dimension: to create one that is missing.

    Raises:
        StoreError: it is missing and `dimension` is not given, or is damaged.
        SpaceMismatchError: another model's vectors are there.
    """
    return EmbeddingStore(space_folder(folder, space), fingerprint=space, dimension=dimension)


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
            bad = _not_unit(store.shard(number))
            problems += [f"{space.name}: shard {number}, row {row}: {why}" for row, why in bad]
    return count, problems


def _encode(encoder: ItemEncoder, items: Sequence[PlannedItem], role: Role) -> np.ndarray:
    try:
        rows = encoder.encode([item.item for item in items], role=role, show_progress_bar=False)
    except InputError as error:
        failed = [each for each in error.errors if each.index is not None] or [error]
        raise DataError(_named(failed, items, encoder.name)) from None
    rows = np.asarray(rows)
    shape = (len(items), encoder.embedding_dimension)
    if rows.shape != shape or rows.dtype != np.float32:
        raise DataError(
            f"{encoder.name} gave {rows.dtype} of shape {rows.shape} for {len(items)} items; "
            f"expected float32 of shape {shape}"
        )
    bad = _not_unit(rows)
    if bad:
        named = "".join(f"\n  {items[row].name}: {why}" for row, why in bad[:_SHOWN])
        more = f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise DataError(
            f"{encoder.name} gave {len(bad)} of {len(items)} vectors that are no unit vectors; "
            f"nothing can be ranked by them:{named}{more}"
        )
    return rows


def _not_unit(rows: np.ndarray) -> list[tuple[int, str]]:
    """(row, what is wrong with it)."""
    finite = np.isfinite(rows).all(axis=1)
    norms = np.linalg.norm(np.where(finite[:, None], rows, 1.0).astype(np.float64), axis=1)
    bad = np.flatnonzero(~finite | (np.abs(norms - 1.0) > _TOLERANCE))
    return [
        (int(row), f"its length is {norms[row]:.4g}" if finite[row] else "it is not finite")
        for row in bad
    ]


def _named(errors: Sequence[InputError], items: Sequence[PlannedItem], model: str) -> str:
    lines = []
    for error in errors[:_SHOWN]:
        index = error.index[0] if isinstance(error.index, tuple) else error.index
        name = items[index].name if index is not None else "an item"
        source = f" ({error.source})" if error.source else ""
        lines.append(f"\n  {name}{source}: {error.code}: {error.detail}")
    more = f"\n  and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
    return f"{model} cannot encode {len(errors)} items:{''.join(lines)}{more}"
