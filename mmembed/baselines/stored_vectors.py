"""The encode layer: items to rows that are kept under the model's space and the items' content.

    items -> cut_shards: shards that have missing rows -> ItemEncoder -> EmbeddingStore -> scores

A shard is one call of the encoder and is committed at once. What is batched together, and so every
byte of a row, depends on the list of items alone: neither on processes nor on how often a run was
killed. Evaluation and mining stand on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmembed.baselines.item_encoder import ItemEncoder
from mmembed.errors import DataError, InputError
from mmembed.store.content import Digest, content_key
from mmembed.store.file_hashes import FileHashes
from mmembed.store.vectors import EmbeddingStore
from mmembed.types import MultimodalInput, Role

__all__ = [
    "EncodeShard",
    "PlannedItem",
    "StoredVectors",
    "cut_shards",
    "not_unit",
    "open_space",
    "space_folder",
    "with_instruction",
]

# Most items of a shard by what is in them, in the order in which they are encoded: what takes long
# comes first and in small shards, so that little is lost with a process.
_SHARD_ITEMS = {"video": 32, "pdf": 64, "image": 256, "text": 2048}

_TOLERANCE = 1e-3
_SHOWN = 8


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


def with_instruction(item: MultimodalInput, instruction: str | None) -> MultimodalInput:
    """The item with the task's instruction, unless it brings its own."""
    if instruction is None or item.instruction is not None:
        return item
    return MultimodalInput(item.parts, instruction)


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


def _kind(item: MultimodalInput) -> str:
    """What decides how long it takes."""
    kinds = item.modality.split("+")
    return next(kind for kind in _SHARD_ITEMS if kind in kinds)


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
    bad = not_unit(rows)
    if bad:
        named = "".join(f"\n  {items[row].name}: {why}" for row, why in bad[:_SHOWN])
        more = f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise DataError(
            f"{encoder.name} gave {len(bad)} of {len(items)} vectors that are no unit vectors; "
            f"nothing can be ranked by them:{named}{more}"
        )
    return rows


def not_unit(rows: np.ndarray) -> list[tuple[int, str]]:
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
