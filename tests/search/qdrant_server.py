"""Qdrant's HTTP interface, as far as we use it, over the client's local mode.

Requests are parsed with the client's own models, which are made from Qdrant's OpenAPI description:
what would be malformed for a server fails here. It searches exactly and has no replicas.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import TypeAdapter
from qdrant_client import QdrantClient, models


class FakeServer:
    """Keeps collections in memory.

    Attributes:
        made: the body with which each collection was made.
        indexed: the payload fields that were indexed, by collection.
        asked: the search parameters of every query.
        api_keys: those that came with requests.
        broken: answer everything with this status.
    """

    def __init__(self) -> None:
        self.local = QdrantClient(":memory:", force_disable_check_same_thread=True)
        self.made: dict[str, dict[str, Any]] = {}
        self.indexed: dict[str, dict[str, str]] = {}
        self.asked: list[models.SearchParams] = []
        self.api_keys: set[str | None] = set()
        self.broken: int | None = None
        self.url = ""
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, body: Any) -> Any:
        for (verb, pattern), handle in self._routes().items():
            found = re.fullmatch(pattern, path)
            if verb == method and found:
                with self._lock:
                    return handle(*found.groups(), body)
        raise LookupError(f"{method} {path}")

    def _routes(self) -> dict[tuple[str, str], Callable[..., Any]]:
        one = "/collections/([^/]+)"
        return {
            ("GET", "/aliases"): lambda _: self.local.get_aliases(),
            ("POST", "/collections/aliases"): self._change_aliases,
            ("GET", f"{one}/exists"): lambda name, _: {
                "exists": self.local.collection_exists(name)
            },
            ("GET", one): lambda name, _: self.local.get_collection(name),
            ("PUT", one): self._create,
            ("DELETE", one): lambda name, _: self.local.delete_collection(name),
            ("PUT", f"{one}/index"): self._index,
            ("POST", f"{one}/points"): self._retrieve,
            ("PUT", f"{one}/points"): self._upsert,
            ("POST", f"{one}/points/delete"): self._delete,
            ("POST", f"{one}/points/scroll"): self._scroll,
            ("POST", f"{one}/points/count"): self._count,
            ("POST", f"{one}/points/query"): self._query,
        }

    def _create(self, name: str, body: Any) -> bool:
        asked = models.CreateCollection.model_validate(body)
        self.made[name] = body
        return self.local.create_collection(
            name, vectors_config=asked.vectors, sparse_vectors_config=asked.sparse_vectors
        )

    def _change_aliases(self, body: Any) -> bool:
        actions = models.ChangeAliasesOperation.model_validate(body).actions
        return self.local.update_collection_aliases(actions)

    def _index(self, name: str, body: Any) -> Any:
        asked = models.CreateFieldIndex.model_validate(body)
        self.indexed.setdefault(name, {})[asked.field_name] = str(asked.field_schema.value)  # type: ignore[union-attr]
        return _DONE

    def _retrieve(self, name: str, body: Any) -> Any:
        asked = models.PointRequest.model_validate(body)
        return self.local.retrieve(
            name, asked.ids, with_payload=asked.with_payload, with_vectors=asked.with_vector
        )

    def _upsert(self, name: str, body: Any) -> Any:
        return self.local.upsert(name, models.PointsList.model_validate(body).points)

    def _delete(self, name: str, body: Any) -> Any:
        return self.local.delete(name, models.PointIdsList.model_validate(body))

    def _scroll(self, name: str, body: Any) -> Any:
        asked = models.ScrollRequest.model_validate(body)
        points, offset = self.local.scroll(
            name,
            scroll_filter=asked.filter,
            limit=asked.limit,
            offset=asked.offset,
            with_payload=asked.with_payload,
            with_vectors=asked.with_vector,
        )
        return {"points": _plain(points), "next_page_offset": offset}

    def _count(self, name: str, body: Any) -> Any:
        asked = models.CountRequest.model_validate(body)
        return self.local.count(name, count_filter=asked.filter, exact=asked.exact)

    def _query(self, name: str, body: Any) -> Any:
        asked = models.QueryRequest.model_validate(body)
        if asked.params is not None:
            self.asked.append(asked.params)
        nearest = (
            asked.query.nearest if isinstance(asked.query, models.NearestQuery) else asked.query
        )
        return self.local.query_points(
            name,
            query=nearest,
            using=asked.using,
            query_filter=asked.filter,
            limit=asked.limit,
            with_payload=asked.with_payload,
            with_vectors=asked.with_vector,
        )


_DONE = {"operation_id": 0, "status": "completed"}


def _plain(value: Any) -> Any:
    return TypeAdapter(Any).dump_python(value, mode="json")


@contextmanager
def qdrant_server() -> Iterator[FakeServer]:
    """A server on a free port of this machine; `url` is `qdrant://127.0.0.1:PORT`."""
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            fake.api_keys.add(self.headers.get("api-key"))
            status, answer = fake.broken or 200, {"status": {"error": "out of order"}, "time": 0.0}
            if fake.broken is None:
                path = self.path.partition("?")[0]
                try:
                    result = fake.answer(self.command, path, json.loads(body) if body else None)
                    answer = {"result": _plain(result), "status": "ok", "time": 0.0}
                except Exception as error:
                    status = 400
                    answer["status"] = {"error": f"{type(error).__name__}: {error}"}
            payload = json.dumps(answer).encode("ascii")
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        fake.url = f"qdrant://127.0.0.1:{server.server_port}"
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()
            fake.local.close()
