"""Vectors on disk, named by the content they were made from; shared by encoding and search.

    items -> content_key -> EmbeddingStore.missing -> encode -> EmbeddingStore.add -> index

A store is a folder that belongs to one embedding space:

    store.json           format, fingerprint of the model, dimension; written once
    manifest.jsonl       one line for each shard: its rows' keys, size and sha256; appended last
    shards/<sha256>.npy  float32 rows, (n, D)

A shard counts from the moment its manifest line is on disk. Whatever a killed process leaves
behind (a temporary file, a shard without a line, half a line at the end) is invisible to readers
and removed by the next writer. Several processes may write to one store: each append takes a
short lock and first reads what the others appended.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmembed.errors import SpaceMismatchError, StoreError
from mmembed.store.content import hash_file
from mmembed.store.durable import (
    dump_record,
    lock_folder,
    parse_record,
    read_record,
    write_atomically,
)

__all__ = ["EmbeddingStore", "check_space"]

logger = logging.getLogger(__name__)

_FORMAT = "mmembed-store/1"
_KEY = re.compile(r"[0-9a-f]{64}")
_SHARD_NAME = re.compile(r"[0-9a-f]{64}\.npy")


class EmbeddingStore:
    """Content-addressed float32 vectors of one embedding space in a crash-safe folder.

    Args:
        folder: created when it is missing and `fingerprint` and `dimension` are given.
        fingerprint: names the embedding space (`Embedder.fingerprint`). None opens an existing
            store whatever its space is.
        dimension: length of a vector; None takes the store's.

    Raises:
        SpaceMismatchError: the folder holds vectors of another space; both are named.
        StoreError: the folder is damaged, incomplete or of another format.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        fingerprint: str | None = None,
        dimension: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        if not (self.folder / "store.json").exists():
            self._create(fingerprint, dimension)
        header = read_record(self.folder / "store.json", _FORMAT)
        self.fingerprint: str = header["fingerprint"]
        self.dimension: int = header["dimension"]
        check_space(
            f"the store {self.folder}",
            (self.fingerprint, self.dimension),
            (fingerprint or self.fingerprint, dimension or self.dimension),
        )
        self._shards: list[_Shard] = []
        self._where: dict[str, tuple[int, int]] = {}
        self._opened: dict[int, np.ndarray] = {}
        self._manifest_end = 0
        self._swept = False
        self.refresh()

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: object) -> bool:
        return key in self._where

    def keys(self) -> Iterator[str]:
        """All keys, in the order in which they were added."""
        return iter(self._where)

    def missing(self, keys: Sequence[str]) -> list[str]:
        """The keys that have no vector yet, each once, in order."""
        return [key for key in dict.fromkeys(keys) if key not in self._where]

    def add(self, keys: Sequence[str], vectors: np.ndarray) -> int:
        """Commit rows as one shard; they survive a crash from the moment this returns.

        Keys that the store already has keep their vector.

        Args:
            keys: 64 hex digits each, from `content_key`.
            vectors: (N, D) float16, float32 or float64.

        Returns:
            How many rows were new.

        Raises:
            ValueError: a NaN, infinite or zero row, a wrong shape or dtype, or a malformed key.
            StoreError: the disk refused the write; the store is as it was before.
        """
        rows = self._checked(keys, vectors)
        if not rows.size:
            return 0
        try:
            with lock_folder(self.folder, wait=True):
                self.refresh()
                self._sweep()
                first = {key: number for number, key in reversed(list(enumerate(keys)))}
                fresh = [first[key] for key in self.missing(keys)]
                if fresh:
                    self._append([keys[number] for number in fresh], rows[fresh])
        except OSError as error:
            raise StoreError(
                f"cannot write to the store {self.folder}: {error.strerror or error}; "
                "earlier rows are unharmed"
            ) from error
        return len(fresh)

    def get(self, keys: Sequence[str]) -> np.ndarray:
        """Vectors of `keys`, (N, D) float32, in order. KeyError for a key that is not stored."""
        found = np.empty((len(keys), self.dimension), dtype=np.float32)
        for number, key in enumerate(keys):
            shard, row = self._where[key]
            found[number] = self.shard(shard)[row]
        return found

    def locate(self, key: str) -> tuple[int, int]:
        """(shard number, row in the shard) of a key. KeyError when it is not stored."""
        return self._where[key]

    @property
    def num_shards(self) -> int:
        return len(self._shards)

    def shard(self, number: int) -> np.ndarray:
        """Rows of one shard, (n, D) float32, read-only and memory-mapped.

        The sha256 of the file is checked the first time this process touches it.
        """
        if number not in self._opened:
            shard = self._shards[number]
            path = self.folder / "shards" / shard.name
            problem = self._problem(shard)
            if problem:
                raise StoreError(
                    f"{path}: {problem}. Delete {self.folder} and encode again, or restore the file"
                )
            self._opened[number] = np.load(path, mmap_mode="r", allow_pickle=False)
        return self._opened[number]

    def verify(self) -> list[str]:
        """Read every byte again; one sentence for each damaged file, empty when all is well."""
        try:
            fresh = EmbeddingStore(self.folder)
        except StoreError as error:
            return [str(error)]
        problems = []
        for shard in fresh._shards:
            problem = fresh._problem(shard)
            if problem:
                problems.append(f"shards/{shard.name}: {problem}")
        manifest = self.folder / "manifest.jsonl"
        cut = manifest.stat().st_size - fresh._manifest_end
        if cut:
            problems.append(
                f"manifest.jsonl: {cut:,} bytes behind the last committed line, left by a write "
                "that was cut; the next write removes them"
            )
        return problems

    def refresh(self) -> None:
        """Take in the shards that other processes committed since."""
        manifest = self.folder / "manifest.jsonl"
        if not manifest.exists():
            raise StoreError(f"{manifest} is missing; restore it or use another folder")
        with manifest.open("rb") as file:
            file.seek(self._manifest_end)
            tail = file.read()
        # A last line without its newline is an append that was cut: not committed.
        committed = tail[: tail.rfind(b"\n") + 1]
        for line in committed.split(b"\n")[:-1]:
            shard = self._parse_line(line, len(self._shards) + 1)
            path = self.folder / "shards" / shard.name
            size = path.stat().st_size if path.exists() else None
            if size != shard.num_bytes:
                found = "is missing" if size is None else f"has {size:,} bytes"
                raise StoreError(
                    f"{path} {found}; the manifest promises {shard.num_bytes:,} bytes. "
                    f"Restore the file, or delete {self.folder} and encode again"
                )
            for row, key in enumerate(shard.keys):
                self._where.setdefault(key, (len(self._shards), row))
            self._shards.append(shard)
        self._manifest_end += len(committed)

    def _create(self, fingerprint: str | None, dimension: int | None) -> None:
        if fingerprint is None or dimension is None:
            raise StoreError(f"{self.folder} is not an embedding store: store.json is missing")
        (self.folder / "shards").mkdir(parents=True, exist_ok=True)
        manifest = self.folder / "manifest.jsonl"
        with lock_folder(self.folder, wait=True):
            if (self.folder / "store.json").exists():
                return  # another process was faster; its space is checked like any other
            if manifest.exists() and manifest.stat().st_size:
                raise StoreError(
                    f"{self.folder} has vectors but no store.json, so their space is unknown; "
                    "restore the file or use another folder"
                )
            manifest.touch()
            header = {"format": _FORMAT, "fingerprint": fingerprint, "dimension": dimension}
            write_atomically(self.folder / "store.json", dump_record(header) + b"\n")

    def _checked(self, keys: Sequence[str], vectors: np.ndarray) -> np.ndarray:
        vectors = np.asarray(vectors)
        if vectors.shape != (len(keys), self.dimension):
            raise ValueError(
                f"vectors have shape {vectors.shape}; {len(keys)} keys of this store need "
                f"({len(keys)}, {self.dimension})"
            )
        if vectors.dtype.kind != "f":
            raise ValueError(f"vectors are {vectors.dtype}; the store takes float16, 32 or 64")
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(vectors, dtype=np.float32)
        bad = ~np.isfinite(rows).all(axis=1) | ~rows.any(axis=1)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"row {first} (key {keys[first][:12]}) is zero or not finite, {int(bad.sum())} of "
                f"{len(keys)} rows in all; leave failed rows out (EncodeReport.ok marks the good)"
            )
        for key in keys:
            if not _KEY.fullmatch(key):
                raise ValueError(f"key {key!r} is not 64 lower-case hex digits; use content_key")
        return rows

    def _append(self, keys: list[str], rows: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(buffer, rows, allow_pickle=False)
        payload = buffer.getvalue()
        digest = hashlib.sha256(payload).hexdigest()
        write_atomically(self.folder / "shards" / f"{digest}.npy", payload)
        line = dump_record({"sha256": digest, "num_bytes": len(payload), "keys": keys}) + b"\n"
        with (self.folder / "manifest.jsonl").open("ab") as file:
            file.truncate(self._manifest_end)  # the torn tail of a killed writer
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.refresh()

    def _sweep(self) -> None:
        """Remove what killed writers left; the lock is held, so nothing unlisted is in use."""
        if self._swept:
            return
        listed = {shard.name for shard in self._shards}
        for path in (self.folder / "shards").iterdir():
            is_ours = _SHARD_NAME.fullmatch(path.name) or path.name.startswith(".tmp-")
            if is_ours and path.name not in listed:
                logger.info("removing the uncommitted %s", path)
                path.unlink()
        self._swept = True

    def _parse_line(self, line: bytes, number: int) -> _Shard:
        record = parse_record(line)
        if record is None:
            raise StoreError(
                f"{self.folder / 'manifest.jsonl'}: line {number} is damaged. Restore the file, "
                f"or delete {self.folder} and encode again"
            )
        return _Shard(record["sha256"], record["num_bytes"], tuple(record["keys"]))

    def _problem(self, shard: _Shard) -> str | None:
        path = self.folder / "shards" / shard.name
        if not path.is_file():
            return "the file is missing"
        if hash_file(path) != shard.sha256:
            return "the bytes are not those that were written (sha256 differs)"
        return None


@dataclass(frozen=True)
class _Shard:
    sha256: str
    num_bytes: int
    keys: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.sha256}.npy"


def check_space(owner: str, stored: tuple[str, int], given: tuple[str, int]) -> None:
    """Refuse vectors of another embedding space; a space is a fingerprint and a dimension."""
    if stored[0] != given[0]:
        raise SpaceMismatchError(
            f"{owner} holds vectors of model {stored[0]}; got model {given[0]}. Scores across "
            "models mean nothing: use the model it was made with, or another folder"
        )
    if stored[1] != given[1]:
        raise SpaceMismatchError(
            f"{owner} holds vectors of {stored[1]} dimensions (model {stored[0]}); got "
            f"{given[1]}. Use the same truncate_dim, or another folder"
        )
