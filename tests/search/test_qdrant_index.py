"""Addresses of Qdrant, what a server is asked for, and what its failures look like.

What every index promises is in `test_index_conformance`, also over HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qdrant_client")

from qdrant_client import models

from mmembed.errors import ConfigError, SpaceMismatchError, StoreError
from mmembed.search.opening import open_index
from mmembed.search.qdrant_address import CollectionOptions, QdrantAddress
from mmembed.search.qdrant_index import QdrantIndex
from mmembed.search.rows import Row
from tests.search.qdrant_server import FakeServer, qdrant_server

SPACE: dict[str, Any] = {"fingerprint": "a" * 64, "dimension": 8}
VECTORS = np.eye(8, dtype=np.float32)
ROWS = [Row(f"/{n}.png", f"/{n}.png", "image", f"{n:064x}") for n in range(8)]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with qdrant_server() as running:
        yield running


@pytest.mark.parametrize(
    ("uri", "location", "name"),
    [
        ("qdrant://db.local/photos", "http://db.local:6333", "photos"),
        ("qdrants://db.local:443/photos/", "https://db.local:443", "photos"),
        ("qdrant://[::1]:7000/p", "http://[::1]:7000", "p"),
    ],
)
def test_addresses_are_read(uri: str, location: str, name: str) -> None:
    address = QdrantAddress.parse(uri)
    assert (address.location, address.name) == (location, name)
    assert address.options == CollectionOptions()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("qdrant://host", "no address of a Qdrant index"),
        ("qdrant:///name", "no address of a Qdrant index"),
        ("qdrant:some/folder", "no address of a Qdrant index"),
        ("qdrant://host:port/name", "no address of a Qdrant index"),
        ("qdrant://host/a/b", "no address of a Qdrant index"),
        ("qdrant://me:secret@host/name", "set QDRANT_API_KEY"),
        ("qdrant://host/name?shard=2", "unknown key 'shard'.*shards"),
        ("qdrant://host/name?shards=0", "shards"),
        ("qdrant://host/name?quantization=int4", "quantization"),
    ],
)
def test_addresses_that_make_no_sense_are_refused(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        QdrantAddress.parse(uri)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("quantization", "kind"), [("int8", "scalar"), ("binary", "binary")])
def test_a_collection_is_made_as_the_address_says(
    server: FakeServer, quantization: str, kind: str
) -> None:
    options = f"shards=6&replicas=3&quantization={quantization}"
    index = open_index(f"{server.url}/photos?{options}", **SPACE)
    (made,) = server.made.values()
    assert made["vectors"] == {"dense": {"size": 8, "distance": "Dot", "on_disk": True}}
    assert made["sparse_vectors"] == {"words": {"modifier": "idf"}}
    assert made["quantization_config"][kind]["always_ram"] is True
    assert (made["shard_number"], made["replication_factor"]) == (6, 3)
    assert made["write_consistency_factor"] == 2, "more than half confirm a write"
    (indexed,) = server.indexed.values()
    keyword, number = "keyword", "float"
    assert indexed == {
        "kind": keyword,
        "path": keyword,
        "suffix": keyword,
        "folders": keyword,
        "key": keyword,
        "page": number,
        "modified": number,
        "duration": number,
    }
    index.close()


def test_searches_compare_full_vectors_and_may_ask_for_every_row(server: FakeServer) -> None:
    index = open_index(f"{server.url}/photos", **SPACE)
    index.upsert(ROWS, VECTORS)
    index.commit()
    index.search(VECTORS[0], 3)
    index.search(VECTORS[0], 3, exact=True)
    plain, exact = server.asked
    for asked in (plain, exact):
        assert asked.quantization is not None and asked.quantization.rescore is True
    assert (plain.exact, exact.exact) == (False, True)
    report = index.optimize()
    assert (report.method, report.recall) == ("hnsw", 1.0)
    index.close()
    again = open_index(f"{server.url}/photos")
    again.search(VECTORS[0], 3)
    assert server.asked[-1].hnsw_ef == 64
    again.close()


def test_a_graph_that_finds_too_little_is_not_used(server: FakeServer) -> None:
    index = open_index(f"{server.url}/photos", **SPACE)
    index.upsert(ROWS, VECTORS)
    index.commit()
    report = index.optimize(min_recall=1.1)
    assert report.method == "exact" and "hnsw reaches 1.000 of 1.1" in report.reason
    assert index.stats().method == "exact"
    index.search(VECTORS[0], 1)
    assert server.asked[-1].exact is True
    index.close()


def test_the_key_comes_from_the_environment(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDRANT_API_KEY", "secret")
    with pytest.warns(UserWarning, match="insecure connection"):
        open_index(f"{server.url}/photos", **SPACE).close()
    assert server.api_keys == {"secret"}


def test_a_server_that_is_down_or_broken_is_named(server: FakeServer) -> None:
    index = open_index(f"{server.url}/photos", **SPACE)
    index.upsert(ROWS, VECTORS)
    server.broken = 503
    with pytest.raises(StoreError, match=r"qdrant://.*503.*commit again"):
        index.commit()
    with pytest.raises(StoreError, match="503"):
        index.search(VECTORS[0], 1)
    server.broken = None
    index.commit()
    assert len(index) == 8, "what was to be written is kept until a commit succeeds"
    index.close()
    with pytest.raises(StoreError, match=r"qdrant://127\.0\.0\.1:9/x: .*is the server up"):
        open_index("qdrant://127.0.0.1:9/x", **SPACE)


def test_a_collection_of_something_else_is_refused(server: FakeServer) -> None:
    config = models.VectorParams(size=8, distance=models.Distance.COSINE)
    server.local.create_collection("theirs", vectors_config=config)
    with pytest.raises(StoreError, match="the collection theirs is no index"):
        open_index(f"{server.url}/theirs", **SPACE)


def test_a_maker_that_was_killed_leaves_nothing_in_the_way(server: FakeServer) -> None:
    """It had made the collection, and neither its header nor its name."""
    index = open_index(f"{server.url}/photos", **SPACE)
    made = index.collection  # type: ignore[attr-defined]
    index.close()
    gone = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="photos"))
    server.local.update_collection_aliases([gone])
    header = server.local.scroll(made)[0][0].id
    server.local.delete(made, models.PointIdsList(points=[header]))
    index = open_index(f"{server.url}/photos", **SPACE)
    index.upsert(ROWS, VECTORS)
    index.commit()
    assert len(index) == 8
    index.close()


def test_a_name_is_switched_to_another_space(server: FakeServer) -> None:
    old = QdrantIndex(f"{server.url}/photos", **SPACE)
    old.upsert(ROWS, VECTORS)
    old.commit()
    new = old.sibling(fingerprint="b" * 64, dimension=4)
    new.upsert(ROWS[:4], np.eye(4, dtype=np.float32))
    new.commit()
    seen = open_index(f"{server.url}/photos")
    assert (seen.fingerprint, len(seen)) == ("a" * 64, 8), "not seen before the switch"
    old.replace_by(new)
    assert len(seen.search(VECTORS[0], 8)[0]) == 8, "who has the old one open goes on"
    now = open_index(f"{server.url}/photos")
    assert (now.fingerprint, now.dimension, len(now)) == ("b" * 64, 4, 4)
    with pytest.raises(SpaceMismatchError, match="a" * 64):
        open_index(f"{server.url}/photos", **SPACE)
    assert len(server.local.get_collections().collections) == 2
    old.replace_by(new, keep=False)
    assert len(server.local.get_collections().collections) == 1


def test_two_writers_of_the_same_ids_make_no_duplicates(server: FakeServer) -> None:
    first, second = (open_index(f"{server.url}/photos", **SPACE) for _ in range(2))
    first.upsert(ROWS[:6], VECTORS[:6])
    second.upsert(ROWS[2:], VECTORS[2:])
    second.commit()
    first.commit()
    assert [row.id for row in second.rows()] == [row.id for row in ROWS]
    first.close(), second.close()
