"""Rows as points of one Qdrant collection: written, read page by page, and found.

Row + vector -> point -> collection -> row_of
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmembed.errors import StoreError
from mmembed.search.filters import AllOf, Filter
from mmembed.search.qdrant_filters import conditions, payload, plain, point_id
from mmembed.search.rows import Row, parse_row, searchable_text
from mmembed.search.words import word_weights

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["QdrantPoints", "row_of", "talking"]

_BATCH = 256
_MOST_TIES = 10_000
_HEADER = str(uuid.uuid5(uuid.NAMESPACE_URL, "header"))  # no row has it: their names are JSON

Stored = tuple[Row, np.ndarray]


@contextlib.contextmanager
def talking(uri: str, advice: str = "is the server up, and the address right?") -> Iterator[None]:
    """What the client raises becomes a StoreError; a bug of ours stays one."""
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except ApiException as error:
        said = " ".join(str(error).split())[:300]
        raise StoreError(f"{uri}: {said}; {advice}") from error


def row_of(point: Any) -> Row:
    return parse_row(point.payload["row"])


@dataclass(frozen=True)
class QdrantPoints:
    """One collection. One of its points has no vectors and holds the header.

    Attributes:
        uri: of the index, for messages.
    """

    client: QdrantClient
    collection: str
    uri: str

    def header(self) -> dict[str, Any]:
        """What `write_header` wrote; empty where there is none."""
        with talking(self.uri):
            found = self.client.retrieve(self.collection, [_HEADER], with_payload=True)
        return (found[0].payload or {}) if found else {}

    def write_header(self, header: dict[str, Any]) -> None:
        from qdrant_client import models

        point = models.PointStruct(id=_HEADER, vector={}, payload=header)
        with talking(self.uri):
            self.client.upsert(self.collection, [point], wait=True)

    def write(self, rows: Sequence[Stored]) -> None:
        """Returns when the server has them in its log."""
        for start in range(0, len(rows), _BATCH):
            points = [_point(*row) for row in rows[start : start + _BATCH]]
            with talking(self.uri, "what earlier commits wrote is unharmed, commit again"):
                self.client.upsert(self.collection, points, wait=True)

    def remove(self, ids: Sequence[str]) -> None:
        from qdrant_client import models

        for start in range(0, len(ids), _BATCH):
            points = list(map(point_id, ids[start : start + _BATCH]))
            with talking(self.uri, "what earlier commits wrote is unharmed, commit again"):
                chosen = models.PointIdsList(points=points)
                self.client.delete(self.collection, chosen, wait=True)

    def count(self, where: Filter | None = None) -> int:
        chosen = _rows_only(where)
        if chosen is None:
            return 0
        with talking(self.uri):
            return int(self.client.count(self.collection, count_filter=chosen, exact=True).count)

    def matching(self, where: Filter | None) -> Iterator[Row]:
        """In no order."""
        chosen = _rows_only(where)
        if chosen is not None:
            yield from (row for row, _ in self._scroll(chosen, with_vectors=False))

    def with_keys(self, keys: Sequence[str]) -> Iterator[Stored]:
        """Rows of these content keys."""
        from qdrant_client import models

        for start in range(0, len(keys), _BATCH):
            match = models.MatchAny(any=list(map(plain, keys[start : start + _BATCH])))
            chosen = models.Filter(must=[models.FieldCondition(key="key", match=match)])
            yield from self._scroll(chosen, with_vectors=True)

    def with_ids(self, ids: Sequence[str], *, with_vectors: bool = False) -> dict[str, Stored]:
        """Those of these rows that exist."""
        wanted = list(dict.fromkeys(ids))
        found: dict[str, Stored] = {}
        for start in range(0, len(wanted), _BATCH):
            with talking(self.uri):
                points = self.client.retrieve(
                    self.collection,
                    list(map(point_id, wanted[start : start + _BATCH])),
                    with_payload=["row"],
                    with_vectors=["dense"] if with_vectors else False,
                )
            found |= {row.id: (row, vector) for row, vector in map(_stored, points)}
        return found

    def best(
        self,
        asked: dict[str, Any],
        k: int,
        where: Filter | None,
        *,
        slack: float = 0.0,
        with_vectors: bool = False,
    ) -> list[Any]:
        """At least the k best points, and all whose score is within `slack` of the last of them;
        of more than 10,000 such points Qdrant chooses."""
        chosen = _rows_only(where)
        if chosen is None:
            return []
        limit = k + 8
        while True:
            with talking(self.uri):
                points = self.client.query_points(
                    self.collection,
                    query_filter=chosen,
                    limit=limit,
                    with_payload=["row"],
                    with_vectors=["dense"] if with_vectors else False,
                    **asked,
                ).points
            is_all = len(points) < limit or limit > max(_MOST_TIES, k + 8)
            if is_all or points[-1].score < points[k - 1].score - slack:
                return list(points)
            limit *= 2

    def _scroll(self, chosen: Any, *, with_vectors: bool) -> Iterator[Stored]:
        offset = None
        while True:
            with talking(self.uri):
                points, offset = self.client.scroll(
                    self.collection,
                    scroll_filter=chosen,
                    limit=_BATCH,
                    offset=offset,
                    with_payload=["row"],
                    with_vectors=["dense"] if with_vectors else False,
                )
            yield from map(_stored, points)
            if offset is None:
                return


def _rows_only(where: Filter | None) -> Any:
    """Qdrant's filter, without the header; None where it lets no row through."""
    from qdrant_client import models

    header = models.HasIdCondition(has_id=[_HEADER])
    found = conditions(AllOf(()) if where is None else where)
    if found is False:
        return None
    return models.Filter(must=None if found is True else [found], must_not=[header])


def _point(row: Row, vector: np.ndarray) -> Any:
    from qdrant_client import models

    vectors: dict[str, Any] = {"dense": vector.tolist()}
    weights = word_weights(searchable_text(row))
    if weights:
        indices, values = list(weights), list(weights.values())
        vectors["words"] = models.SparseVector(indices=indices, values=values)
    return models.PointStruct(id=point_id(row.id), vector=vectors, payload=payload(row))


def _stored(point: Any) -> Stored:
    vector = point.vector["dense"] if point.vector else ()
    return row_of(point), np.asarray(vector, dtype=np.float32)
