"""An index in Qdrant: a server or a cluster that many machines write to and search.

    corpus -> upsert / delete -> commit -> optimize -> search -> searcher

    qdrant://HOST:6333/NAME   a server; `qdrants://` with TLS, the key in QDRANT_API_KEY

The client's own local mode is not offered: it unpickles what lies in its folder.

Behind the address, `?shards=6&replicas=2&quantization=int8` says how a new collection is made.
NAME is an alias of the collection that holds the rows, so that a migration can switch to another
one (`sibling`, `replace_by`). One point without vectors holds the embedding space and settings.

A commit is a series of requests, each of which Qdrant has written to its log when it returns.
When one is cut, rows of it may be there and others not; each row is whole, and the next run of
`corpus` writes the rest.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmembed.errors import ConfigError, StoreError
from mmembed.search.filters import Filter, OneOf
from mmembed.search.index import IndexStats, OptimizeReport, check_queries, given_vectors
from mmembed.search.qdrant_address import QdrantAddress, create_collection
from mmembed.search.qdrant_points import QdrantPoints, row_of, talking
from mmembed.search.recall import recall_at_10
from mmembed.search.rows import KINDS, Match, Row
from mmembed.search.words import query_tokens, word_number
from mmembed.store.vectors import check_space

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["QdrantIndex"]

_FORMAT = "mmembed-qdrant/1"
_EF = (64, 128, 256, 512)


class QdrantIndex:
    """Rows and vectors in one Qdrant collection; see the module for addresses.

    Args:
        uri: the address.
        fingerprint, dimension: the embedding space; None takes the index's own. With both, a
            collection that is missing is made.

    Raises:
        SpaceMismatchError: the index belongs to another space; both are named.
        StoreError: no index there, no server, or a collection of something else.
    """

    def __init__(
        self, uri: str, *, fingerprint: str | None = None, dimension: int | None = None
    ) -> None:
        self.uri = uri
        self._address = QdrantAddress.parse(uri)
        self._client: QdrantClient = self._address.connect()
        try:
            with talking(uri):
                collection = self._address.resolve(self._client)
            if collection is None:
                if fingerprint is None or dimension is None:
                    raise StoreError(
                        f"there is no index at {uri}; make one with: "
                        f"mmembed index FOLDER --model MODEL --out {uri}"
                    )
                collection = self._create(fingerprint, dimension)
                with talking(uri):
                    self._address.point_to(self._client, collection)
            self._open(collection, fingerprint, dimension)
        except BaseException:
            self._client.close()
            raise

    def _open(self, collection: str, fingerprint: str | None, dimension: int | None) -> None:
        self.collection = collection
        self._points = QdrantPoints(self._client, collection, self.uri)
        # by id: what the next commit writes; None deletes
        self._pending: dict[str, tuple[Row, np.ndarray] | None] = {}
        header = self._points.header()
        if header.get("format") != _FORMAT:
            raise StoreError(
                f"{self.uri}: the collection {collection} is no index of this version of "
                f"mmembed (format {header.get('format')!r}); use another name"
            )
        self._space: tuple[str, int] = (header["fingerprint"], header["dimension"])
        self.settings: dict[str, Any] = json.loads(header["settings"])
        check_space(
            f"the index {self.uri}",
            self._space,
            (fingerprint or self._space[0], dimension or self._space[1]),
        )

    @property
    def fingerprint(self) -> str:
        return self._space[0]

    @property
    def dimension(self) -> int:
        return self._space[1]

    def __len__(self) -> int:
        return self._points.count()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Begin from what is committed; any number of writers may."""
        settings = self.settings
        self.refresh()
        self.settings = {**self.settings, **settings}
        yield

    def refresh(self) -> None:
        self._pending = {}
        self.settings = json.loads(self._points.header()["settings"])

    def close(self) -> None:
        self._client.close()

    def upsert(self, rows: Sequence[Row], vectors: np.ndarray | None = None) -> None:
        for row, vector in zip(rows, given_vectors(self, rows, vectors), strict=True):
            self._pending[row.id] = (row, vector)

    def delete(self, ids: Iterable[str]) -> int:
        names = list(dict.fromkeys(ids))
        stored = self._points.with_ids(names)
        removed = 0
        for name in names:
            if name in self._pending:
                removed += self._pending[name] is not None
            else:
                removed += name in stored
            self._pending[name] = None
        return removed

    def commit(self) -> None:
        self._points.write([value for value in self._pending.values() if value is not None])
        self._points.remove([name for name, value in self._pending.items() if value is None])
        self._points.write_header(_header(*self._space, self.settings))
        self._pending = {}

    def rows(self, where: Filter | None = None) -> Iterator[Row]:
        """All rows, sorted by id; Qdrant has no such order, so they are held in memory."""
        return iter(sorted(self._points.matching(where), key=lambda row: row.id))

    def get(self, ids: Sequence[str]) -> list[Row]:
        found = self._points.with_ids(ids)
        return [found[name][0] for name in ids]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        found = self._points.with_ids(ids, with_vectors=True)
        vectors = np.array([found[name][1] for name in ids], dtype=np.float32)
        return vectors.reshape(len(ids), self.dimension)

    def known_vectors(self, keys: Iterable[str]) -> dict[str, np.ndarray]:
        names = list(dict.fromkeys(keys))
        known = {row.key: vector for row, vector in filter(None, self._pending.values())}
        lost = [key for key in names if key not in known]
        known |= {row.key: vector for row, vector in self._points.with_keys(lost)}
        return {key: known[key] for key in names if key in known}

    def search(
        self, vectors: np.ndarray, k: int, *, where: Filter | None = None, exact: bool = False
    ) -> list[list[Match]]:
        """As the protocol says; scores and order are computed in float64 from full vectors. Of
        more than 10,000 rows with one score, Qdrant chooses which are found."""
        queries = check_queries(vectors, self.dimension, k)
        parameters = self._parameters(exact)
        answers = []
        for query in queries:
            # |error of a float32 product of D terms| <= D * eps * |q|, for both sides
            length = float(np.linalg.norm(query))
            slack = 2 * self.dimension * float(np.finfo(np.float32).eps) * length
            asked = {"query": query.tolist(), "using": "dense", "search_params": parameters}
            found = self._points.best(asked, k, where, slack=slack, with_vectors=True)
            wide = query.astype(np.float64)
            matches = [
                # a plain sum over each row: its value cannot depend on the other candidates
                Match(float((np.asarray(point.vector["dense"]) * wide).sum()), row_of(point))
                for point in found
            ]
            answers.append(_best(matches, k))
        return answers

    def search_text(self, text: str, k: int, *, where: Filter | None = None) -> list[Match]:
        from qdrant_client import models

        if k < 1:
            raise ConfigError(f"k is {k}; it must be at least 1")
        words = sorted({word_number(token) for token in query_tokens(text)})
        if not words:
            return []
        query = models.SparseVector(indices=words, values=[1.0] * len(words))
        found = self._points.best({"query": query, "using": "words"}, k, where)
        return _best([Match(point.score, row_of(point)) for point in found], k)

    def optimize(self, *, min_recall: float = 0.99) -> OptimizeReport:
        """Wait until the server has built its graphs, and look at as much of them as the recall
        needs; commits."""
        started = time.monotonic()
        self._wait()
        self.settings.pop("exact", None)
        recall = 0.0
        for ef in _EF:
            self.settings["hnsw_ef"] = ef
            recall = recall_at_10(self)
            if recall >= min_recall:
                reason = f"hnsw_ef {ef} suffices"
                break
        else:
            del self.settings["hnsw_ef"]
            self.settings["exact"] = True
            reason = f"hnsw reaches {recall:.3f} of {min_recall:g} with hnsw_ef {_EF[-1]}"
        self.commit()
        seconds = time.monotonic() - started
        return OptimizeReport(self._method, recall, seconds, reason)

    def stats(self) -> IndexStats:
        counts = {kind: self._points.count(OneOf("kind", (kind,))) for kind in KINDS}
        rows = sum(counts.values())
        with talking(self.uri):
            info = self._client.get_collection(self.collection)
        waiting = 0 if self._method == "exact" else rows - (info.indexed_vectors_count or 0)
        by_kind: dict[str, int] = {kind: count for kind, count in counts.items() if count}
        return IndexStats(rows, by_kind, None, self._method, max(0, waiting))

    def sibling(self, *, fingerprint: str, dimension: int) -> QdrantIndex:
        """An index of another space beside this one, on the same server; not seen under this
        address until `replace_by`. One that is there already is opened."""
        other = object.__new__(QdrantIndex)
        other.uri, other._address, other._client = self.uri, self._address, self._client
        other._open(other._create(fingerprint, dimension), fingerprint, dimension)
        return other

    def replace_by(self, other: QdrantIndex, *, keep: bool = True) -> None:
        """Make the address mean the other index, in one step; who holds this one goes on."""
        with talking(self.uri):
            self._address.point_to(self._client, other.collection)
            if not keep:
                self._client.delete_collection(self.collection)

    def _parameters(self, exact: bool) -> Any:
        from qdrant_client import models

        return models.SearchParams(
            exact=exact or bool(self.settings.get("exact")),
            hnsw_ef=self.settings.get("hnsw_ef"),
            quantization=models.QuantizationSearchParams(rescore=True, oversampling=4.0),
        )

    @property
    def _method(self) -> str:
        return "exact" if self.settings.get("exact") else "hnsw"

    def _create(self, fingerprint: str, dimension: int) -> str:
        """The collection of this space, with its header."""
        name = f"{self._address.name}.{fingerprint[:8]}-{dimension}"
        with talking(self.uri):
            create_collection(self._client, name, dimension, self._address)
        points = QdrantPoints(self._client, name, self.uri)
        if not points.header():
            points.write_header(_header(fingerprint, dimension, {}))
        return name

    def _wait(self) -> None:
        """Until the server has nothing left to optimise."""
        from qdrant_client.models import CollectionStatus

        status = CollectionStatus.YELLOW
        while status == CollectionStatus.YELLOW:
            with talking(self.uri):
                status = self._client.get_collection(self.collection).status
            if status == CollectionStatus.YELLOW:
                time.sleep(0.5)
        if status == CollectionStatus.RED:
            raise StoreError(f"{self.uri}: Qdrant reports a failed optimisation; see its log")


def _header(fingerprint: str, dimension: int, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "dimension": dimension,
        "settings": json.dumps(settings),
    }


def _best(matches: Iterable[Match], k: int) -> list[Match]:
    return sorted(matches, key=lambda match: (-match.score, match.row.id))[:k]
