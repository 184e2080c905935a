"""Each address opens its engine."""

from __future__ import annotations

import builtins
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.errors import ConfigError, SpaceMismatchError, StoreError
from mmembed.search.exact_index import ExactIndex
from mmembed.search.index import Index
from mmembed.search.lance_index import LanceIndex
from mmembed.search.opening import open_index
from mmembed.search.rows import Row

SPACE: dict[str, Any] = {"fingerprint": "a" * 64, "dimension": 4}


def put(index: Index) -> None:
    index.upsert([Row("/a.png", "/a.png", "image", key="0" * 64)], np.eye(4, dtype=np.float32)[:1])
    index.commit()


@pytest.mark.parametrize(
    ("prefix", "kind"), [("", LanceIndex), ("lance:", LanceIndex), ("numpy:", ExactIndex)]
)
def test_a_folder_is_made_once_and_then_opened_for_what_it_is(
    tmp_path: Path, prefix: str, kind: type
) -> None:
    folder = tmp_path / "library.index"
    with pytest.raises(StoreError, match="mmembed index FOLDER"):
        open_index(f"{prefix}{folder}")
    assert not folder.exists()
    made = open_index(f"{prefix}{folder}", **SPACE)
    assert isinstance(made, kind)
    put(made)
    for address in (folder, str(folder), f"{prefix}{folder}", made.uri):
        again = open_index(address)
        assert isinstance(again, kind)
        assert (len(again), again.uri, again.fingerprint) == (1, made.uri, "a" * 64)
    with pytest.raises(SpaceMismatchError, match="b" * 64):
        open_index(folder, fingerprint="b" * 64, dimension=4)


def test_memory_is_an_index_that_goes_with_its_object() -> None:
    with pytest.raises(StoreError, match="fingerprint"):
        open_index("memory:")
    index = open_index("memory:", **SPACE)
    put(index)
    assert isinstance(index, ExactIndex)
    folder = index.folder
    assert (len(index), index.uri, folder.is_dir()) == (1, "memory:", True)
    assert len(open_index("memory:", **SPACE)) == 0
    del index
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize(
    "address", ["milvus://host", "numpy:", "lance:", "s3:bucket", "memory:x", "qdrant:folder"]
)
def test_an_address_that_nobody_understands_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"no address of an index; it may be: FOLDER, lance:"):
        open_index(address)


def test_a_path_object_and_a_drive_are_never_schemes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    put(open_index(Path("memory:"), **SPACE))
    assert len(open_index("./memory:")) == 1
    with pytest.raises(StoreError, match="there is no index in C:"):
        open_index("C:\\photos")


def test_without_lancedb_the_numpy_index_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "lancedb":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"numpy:.*mmembed\[search\]"):
        open_index(tmp_path / "new", **SPACE)
