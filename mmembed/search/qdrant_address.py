"""Where a Qdrant index is, and how its collection is made.

"qdrant://host:6333/photos?shards=6" -> QdrantAddress -> client -> collection
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field

from mmembed.config.validation import StrictModel, validate
from mmembed.errors import ConfigError, MissingDependencyError
from mmembed.search.qdrant_filters import KEYWORDS, NUMBERS

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["CollectionOptions", "QdrantAddress", "create_collection"]


class CollectionOptions(StrictModel):
    """How a new collection is made; what stands behind `?` in an address.

    Attributes:
        shards: parts that a cluster spreads over its machines; default: Qdrant's.
        replicas: copies of each shard; more than half of them confirm a write.
        quantization: codes in memory that are compared first; `none` keeps vectors only. Full
            vectors are on disk and decide the ranking.
        timeout: seconds for one request.
    """

    shards: int | None = Field(default=None, ge=1)
    replicas: int = Field(default=1, ge=1)
    quantization: Literal["none", "int8", "binary"] = "none"
    timeout: int = Field(default=60, ge=1)


@dataclass(frozen=True)
class QdrantAddress:
    """A `qdrant://` or `qdrants://` address.

    Attributes:
        location: the server's URL.
        name: what the index is called there; an alias of a collection.
    """

    location: str
    name: str
    options: CollectionOptions

    @classmethod
    def parse(cls, uri: str) -> QdrantAddress:
        """Raises ConfigError for an address without a host or a name, or an unknown option."""
        scheme = uri.partition(":")[0]
        try:
            parts = urlsplit(uri)
            host, port, name = parts.hostname, parts.port, parts.path.strip("/")
        except ValueError:
            host, port, name = None, None, ""
        if scheme not in ("qdrant", "qdrants") or not host or not name or "/" in name:
            raise ConfigError(
                f"{uri!r} is no address of a Qdrant index; write qdrant://HOST:6333/NAME "
                "or, with TLS, qdrants://HOST:6333/NAME"
            )
        if parts.username or parts.password:
            raise ConfigError("a Qdrant address holds no key; set QDRANT_API_KEY")
        web = "http" if scheme == "qdrant" else "https"
        shown = f"[{host}]" if ":" in host else host
        options = validate(CollectionOptions, dict(parse_qsl(parts.query)), where=uri)
        return cls(f"{web}://{shown}:{port or 6333}", name, options)

    def connect(self) -> QdrantClient:
        """Raises MissingDependencyError."""
        try:
            from qdrant_client import QdrantClient
        except ImportError:
            raise MissingDependencyError("qdrant-client", "qdrant") from None
        return QdrantClient(
            url=self.location,
            api_key=os.environ.get("QDRANT_API_KEY"),
            timeout=self.options.timeout,
            check_compatibility=False,  # it asks the server, and only warns
        )

    def resolve(self, client: QdrantClient) -> str | None:
        """The collection behind the name; None where there is none."""
        for alias in client.get_aliases().aliases:
            if alias.alias_name == self.name:
                return str(alias.collection_name)
        return self.name if client.collection_exists(self.name) else None

    def point_to(self, client: QdrantClient, collection: str) -> None:
        """Make the name mean this collection, in one step."""
        from qdrant_client import models

        make = models.CreateAlias(collection_name=collection, alias_name=self.name)
        operations: list[models.AliasOperations] = [models.CreateAliasOperation(create_alias=make)]
        if any(alias.alias_name == self.name for alias in client.get_aliases().aliases):
            gone = models.DeleteAlias(alias_name=self.name)
            operations.insert(0, models.DeleteAliasOperation(delete_alias=gone))
        client.update_collection_aliases(operations)


def create_collection(
    client: QdrantClient, name: str, dimension: int, address: QdrantAddress
) -> None:
    """An empty collection, unless there is one: dense vectors on disk, words, indexed filters."""
    from qdrant_client import models

    options = address.options
    memory: models.QuantizationConfig | None = None
    if options.quantization == "int8":
        scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        memory = models.ScalarQuantization(scalar=scalar)
    elif options.quantization == "binary":
        binary = models.BinaryQuantizationConfig(always_ram=True)
        memory = models.BinaryQuantization(binary=binary)
    # DOT leaves vectors as they are; COSINE would normalise them again
    dense = models.VectorParams(size=dimension, distance=models.Distance.DOT, on_disk=True)
    if not client.collection_exists(name):
        words = models.SparseVectorParams(modifier=models.Modifier.IDF)
        try:
            client.create_collection(
                name,
                vectors_config={"dense": dense},
                sparse_vectors_config={"words": words},
                quantization_config=memory,
                shard_number=options.shards,
                replication_factor=options.replicas,
                write_consistency_factor=options.replicas // 2 + 1,
                on_disk_payload=True,
            )
        except Exception:
            if not client.collection_exists(name):  # else another process was faster
                raise
    # also those of a collection whose maker was killed in between
    for field in KEYWORDS:
        client.create_payload_index(name, field, models.PayloadSchemaType.KEYWORD, wait=True)
    for field in NUMBERS:
        client.create_payload_index(name, field, models.PayloadSchemaType.FLOAT, wait=True)
