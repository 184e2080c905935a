"""Opens an index by its address, whichever engine keeps it.

open_index("library.index") -> Index -> corpus, searcher, migration
"""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from pathlib import Path

from mmembed.errors import ConfigError, MissingDependencyError, StoreError
from mmembed.search.exact_index import ExactIndex
from mmembed.search.generations import current_folder
from mmembed.search.index import Index

__all__ = ["ADDRESSES", "open_index"]

ADDRESSES = (
    "FOLDER, lance:FOLDER, s3://BUCKET/FOLDER, gs://..., az://..., numpy:FOLDER, memory:, "
    "qdrant://HOST:6333/COLLECTION, qdrants://... (TLS)"
)
# two letters at least: C:\photos is a path
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):")
_OBJECT_STORES = ("s3", "gs", "az")


def open_index(
    uri: str | Path, *, fingerprint: str | None = None, dimension: int | None = None
) -> Index:
    """The index at an address; a new one where there is none and its space is given.

    Args:
        uri: a folder opens whatever index lies in it, and a new one is LanceDB. `lance:FOLDER`
            and `numpy:FOLDER` ask for one kind; `s3://`, `gs://` and `az://` are LanceDB on
            object storage; `memory:` is numpy in a folder that goes with the index;
            `qdrant://host:6333/collection` is a server (`qdrants://` with TLS, its key in
            QDRANT_API_KEY).
        fingerprint, dimension: the embedding space; None takes the index's own.

    Raises:
        ConfigError: an address that nobody understands.
        SpaceMismatchError: the index belongs to another space; both are named.
        StoreError: no index there and no space given, or a damaged one.
        MissingDependencyError: the engine of that address is not installed.
    """
    address = str(uri)
    found = None if isinstance(uri, Path) else _SCHEME.match(address)
    scheme = found[1] if found else None
    rest = address[found.end() :] if found else address
    if scheme is None:
        return _open_folder(current_folder(Path(address)), fingerprint, dimension)
    if scheme == "memory" and not rest:
        return _open_memory(fingerprint, dimension)
    if scheme == "numpy" and rest:
        folder = current_folder(Path(rest))
        return ExactIndex(folder, fingerprint=fingerprint, dimension=dimension)
    if scheme == "lance" and rest:
        if "://" not in rest:
            rest = str(current_folder(Path(rest)))
        return _open_lance(rest, fingerprint, dimension)
    if scheme in _OBJECT_STORES and rest.startswith("//"):
        return _open_lance(address, fingerprint, dimension)
    if scheme in ("qdrant", "qdrants") and rest.startswith("//"):
        from mmembed.search.qdrant_index import QdrantIndex

        return QdrantIndex(address, fingerprint=fingerprint, dimension=dimension)
    raise ConfigError(
        f"{address!r} is no address of an index; it may be: {ADDRESSES}. "
        f"A folder of that name is ./{address}"
    )


def _open_folder(folder: Path, fingerprint: str | None, dimension: int | None) -> Index:
    if (folder / "index.json").exists():
        return ExactIndex(folder, fingerprint=fingerprint, dimension=dimension)
    try:
        return _open_lance(str(folder), fingerprint, dimension)
    except MissingDependencyError:
        raise MissingDependencyError(
            f"lancedb, which keeps every index but numpy:{folder},", "search"
        ) from None


def _open_lance(uri: str, fingerprint: str | None, dimension: int | None) -> Index:
    from mmembed.search.lance_index import LanceIndex

    return LanceIndex(uri, fingerprint=fingerprint, dimension=dimension)


def _open_memory(fingerprint: str | None, dimension: int | None) -> Index:
    if fingerprint is None or dimension is None:
        raise StoreError("memory: holds no index yet; its fingerprint and dimension are needed")
    folder = tempfile.mkdtemp(prefix="mmembed-index-")
    index = ExactIndex(folder, fingerprint=fingerprint, dimension=dimension)
    index.uri = "memory:"
    weakref.finalize(index, shutil.rmtree, folder, ignore_errors=True)
    return index
