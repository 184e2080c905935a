"""Vectors of earlier calls: which items of a call need no forward pass, and what is kept of it.

Between `Embedder.encode` and `store/vectors.py`. Rows are kept as the model gives them, at the
dimension of the store, and are cut when they are read. They reach the disk in shards while the
call runs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.encoder.batching import Group
from mmembed.errors import ConfigError, InputError, SpaceMismatchError
from mmembed.inputs.items import Pair
from mmembed.inputs.media import MediaPolicy, open_media
from mmembed.store.content import content_key
from mmembed.store.vectors import EmbeddingStore, check_space
from mmembed.types import MultimodalInput, Role, Text

__all__ = ["VectorCache", "file_digest", "open_store"]

_SHARD_ROWS = 2048
_SHARD_SECONDS = 10.0
_ITEMS_PER_TASK = 32
_PIECE_BYTES = 2**20

_Stamp = tuple[Path, list[int]]  # of a file: size and date when it was hashed
_Named = tuple[str, tuple[_Stamp, ...]]  # a key, and the files behind it


def file_digest(policy: MediaPolicy) -> Callable[[Path], str]:
    """sha256 hex of files that `policy` allows to be opened; InputError for others."""

    def digest(path: Path) -> str:
        with open_media(path, policy, "image") as file:
            hasher = hashlib.sha256()
            try:
                while piece := file.file.read(_PIECE_BYTES):
                    hasher.update(piece)
            except OSError as error:
                raise InputError("corrupt", "cannot be read", source=file.name) from error
            return hasher.hexdigest()

    return digest


def open_store(cache: Any, *, fingerprint: str, dimension: int) -> EmbeddingStore:
    """The store that a caller gave as `cache`, of this model.

    Args:
        cache: a store, or a folder, which is created when it holds none.
        dimension: that of the model, and of a store that is created.

    Raises:
        SpaceMismatchError: it holds vectors of another model; both are named.
        ConfigError: neither a store nor a folder.
        StoreError: the folder is damaged.
    """
    if isinstance(cache, str | Path):
        exists = (Path(cache) / "store.json").exists()
        return EmbeddingStore(
            cache, fingerprint=fingerprint, dimension=None if exists else dimension
        )
    if not isinstance(cache, EmbeddingStore):
        raise ConfigError(f"cache is a {type(cache).__name__}; give a folder or an EmbeddingStore")
    check_space(
        f"the cache {cache.folder}",
        (cache.fingerprint, cache.dimension),
        (fingerprint, cache.dimension),
    )
    cache.refresh()
    return cache


class VectorCache:
    """A store during one `encode` call.

    Args:
        native: dimension of the model.
        truncate_dim: of the rows that are asked for; None: that of the model.
        normalize: whether they are to be unit vectors.
        on_model: whether those of the model are.
        policy: files outside it are neither read nor found.
        numerics: how the model computes; rows of another dtype or kernel are not found.

    Raises:
        SpaceMismatchError: the store's vectors are too short.
        ConfigError: the length of vectors is asked for and the store does not have it.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        *,
        native: int,
        truncate_dim: int | None,
        normalize: bool,
        on_model: bool,
        policy: MediaPolicy,
        numerics: str,
    ) -> None:
        wanted = truncate_dim or native
        if not wanted <= store.dimension <= native:
            raise SpaceMismatchError(
                f"the cache {store.folder} holds vectors of {store.dimension} dimensions; this "
                f"call needs {wanted} of {native}. Use another folder, or a truncate_dim of at "
                f"most {store.dimension}"
            )
        if on_model and not normalize:
            raise ConfigError(
                "normalize_embeddings=False needs the length of vectors, and a cache of this model "
                "keeps unit vectors; leave out one of the two"
            )
        self.dimension = store.dimension
        self._store = store
        self._wanted = wanted
        self._normalize = normalize and (wanted < store.dimension or not on_model)
        self._digest = file_digest(policy)
        self._numerics = numerics
        self._keys: dict[int, _Named] = {}
        self._fresh: dict[str, np.ndarray] = {}
        self._committed = time.monotonic()

    def take(
        self, groups: Sequence[Group], role: Role, executor: Executor
    ) -> tuple[list[tuple[list[int], np.ndarray]], list[Group]]:
        """Split groups into (positions, row) of those with a vector, and those without.

        Items whose content has no name (addresses, files that cannot be read) are always among
        the latter.

        Args:
            executor: computes hashes.
        """
        found: list[tuple[list[int], np.ndarray]] = []
        missing: list[Group] = []
        items = [item for item, _ in groups]
        pieces = [items[at : at + _ITEMS_PER_TASK] for at in range(0, len(items), _ITEMS_PER_TASK)]
        keys = executor.map(partial(self._names, role=role), pieces)
        for (item, indices), named in zip(groups, chain.from_iterable(keys), strict=True):
            if named is not None and named[0] in self._store:
                found.append((indices, self.cut(self._store.get([named[0]])[0])))
                continue
            if named is not None:
                self._keys[id(item)] = named
            missing.append((item, indices))
        return found, missing

    def cut(self, row: np.ndarray) -> np.ndarray:
        """The row that the caller asked for, of one of the store's dimension."""
        row = row[: self._wanted]
        if self._normalize:
            row = row / max(float(np.linalg.norm(row)), 1e-12)
        return row

    def keep(self, item: MultimodalInput | Pair, row: np.ndarray) -> None:
        """Remember a good row of an item that `take` gave back."""
        key, stamps = self._keys.get(id(item), (None, ()))
        # a file that changed meanwhile: the row may be of other bytes than those in the key
        if key is None or any(_stamp(path) != stamp for path, stamp in stamps):
            return
        if not np.isfinite(row).all() or not row.any():
            return
        self._fresh[key] = row
        late = time.monotonic() - self._committed > _SHARD_SECONDS
        if late or len(self._fresh) >= _SHARD_ROWS:
            self._commit()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Rows that were kept are on disk when the block ends, however it ends."""
        try:
            yield
        finally:
            self._commit()

    def _commit(self) -> None:
        fresh, self._fresh = self._fresh, {}
        if fresh:
            self._store.add(list(fresh), np.stack(list(fresh.values())))
        self._committed = time.monotonic()

    def _names(self, items: Sequence[MultimodalInput], *, role: Role) -> list[_Named | None]:
        return [self._name(item, role) for item in items]

    def _name(self, item: MultimodalInput, role: Role) -> _Named | None:
        try:
            stamps = tuple((path, _stamp(path)) for path in _paths(item))
            key = content_key(item, role, numerics=self._numerics, digest=self._digest)
            return key, stamps
        except InputError:  # encoding it says why
            return None


def _paths(item: MultimodalInput) -> Iterator[Path]:
    for part in item.parts:
        if not isinstance(part, Text):
            sources = part.source if isinstance(part.source, tuple) else (part.source,)
            yield from (source for source in sources if isinstance(source, Path))


def _stamp(path: Path) -> list[int]:
    """Size and date, to see that a file is still the one that was hashed; -1 without one."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]
