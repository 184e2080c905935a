"""One request of the page: build the query, encode it, look it up, say how long each took.

SearchRequest -> query item -> EncodeEngine -> Searcher -> hits
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.concurrency import run_in_threadpool

from mmembed.demo.encoding import QueryEncoders
from mmembed.demo.library import Library, Space, shortened
from mmembed.demo.requests import ExplainRequest, SearchRequest, UploadUse
from mmembed.demo.results import describe_hit
from mmembed.demo.settings import DemoSettings
from mmembed.demo.uploads import Uploads
from mmembed.errors import ConfigError
from mmembed.search.filters import Filter, row_filter
from mmembed.search.row_items import row_item
from mmembed.search.rows import Row
from mmembed.search.searcher import Hit, Searcher
from mmembed.server.errors import RequestError
from mmembed.types import MultimodalInput, Part, Role, Text

__all__ = ["Searches"]

_QUERY: Role = "query"
_DOCUMENT: Role = "document"
_EXPLAINING_THREADS = 2


@dataclass(frozen=True)
class _Query:
    """What is looked for: an item for the model, or the stored vector of one row."""

    item: MultimodalInput | None
    like: str | None  # id of the row that is not to be found itself


class Searches:
    """Answers searches and says what the model reads."""

    def __init__(
        self, library: Library, uploads: Uploads, encoders: QueryEncoders, settings: DemoSettings
    ) -> None:
        self.library = library
        self.uploads = uploads
        self.encoders = encoders
        self.settings = settings
        # what takes long has threads of its own, so that other searches go on
        self._reranking = CapacityLimiter(1)
        self._explaining = CapacityLimiter(_EXPLAINING_THREADS)

    async def search(self, request: SearchRequest) -> dict[str, Any]:
        """Raises RequestError, InputError."""
        space = self.library.space(request.space)
        self._check(request)
        query = await run_in_threadpool(self._query, request, space)
        where = self._where(request)
        took = {"encode_ms": 0.0, "search_ms": 0.0, "rerank_ms": 0.0}
        vector, tokens = None, 0
        if query.item is not None and request.mode != "text":
            started = time.perf_counter()
            vector, tokens = await self.encoders.encode(space, query.item)
            took["encode_ms"] = _milliseconds(started)
        searcher, hits, rows = await run_in_threadpool(
            self._look_up, request, space, query, vector, where, took
        )
        if request.rerank:
            started = time.perf_counter()
            hits = await run_sync(
                self._reranked, searcher, query, hits, request, limiter=self._reranking
            )
            took["rerank_ms"] = _milliseconds(started)
        width = searcher.index.dimension
        catalog = await run_in_threadpool(self.library.catalog)
        words = request.text if request.mode != "vector" else None
        return {
            "hits": [
                describe_hit(hit, rows[hit.id], catalog, words=words or "")
                for hit in hits[: request.k]
            ],
            "took": took,
            "mode": request.mode,
            "method": "exact" if width != space.index.dimension else space.method,
            "space": space.id,
            "dimension": width,
            "query": {"tokens": tokens},
        }

    async def explain(self, request: ExplainRequest) -> dict[str, Any]:
        """What the model reads of a query, or of the row of a hit. Raises RequestError."""
        space = self.library.space(request.space)
        if request.row is not None:
            _, row = await run_in_threadpool(self.library.row, request.row)
            cut = space.index.settings.get("segmentation", {})
            instruction = cut.get("instruction")
            item, role = row_item(row, instruction=instruction), _DOCUMENT
        else:
            self._check(request)
            query = await run_in_threadpool(self._query, request, space, build=True)
            assert query.item is not None
            item, role = query.item, _QUERY
        explain = partial(space.embedder.explain, item, role=role, instruction=None)
        found = await run_sync(explain, limiter=self._explaining)
        return {"model": space.label, "space": space.id, **asdict(found)}

    def _check(self, request: SearchRequest) -> None:
        limit = self.settings.text_chars
        for name in ("text", "instruction"):
            if len(getattr(request, name) or "") > limit:
                raise RequestError(
                    413, "too_long", f"the {name} is longer than {limit:,} characters"
                )
        if request.k > self.settings.k:
            raise RequestError(400, "k", f"k is {request.k}; at most {self.settings.k}")
        if request.text is None and not request.uploads and request.like is None:
            if getattr(request, "row", None) is None:
                raise RequestError(
                    400, "empty_query", "write something, add a file or choose a result"
                )
        if request.mode != "vector" and request.text is None:
            raise RequestError(
                400, "no_words", f"the mode {request.mode!r} looks for words; write some"
            )
        if request.rerank and self.library.reranker is None:
            raise RequestError(400, "no_reranker", "the demo was started without a reranker")

    def _query(self, request: SearchRequest, space: Space, build: bool = False) -> _Query:
        """The parts in the order that models were trained on: media, then text."""
        parts: list[Part] = []
        for use in request.uploads:
            chosen = UploadUse(id=use) if isinstance(use, str) else use
            upload = self.uploads.get(chosen.id)
            parts.append(upload.part(chosen.page, chosen.start, chosen.end))
        like = None
        if request.like is not None:
            _, row = self.library.row(request.like)
            like = row.id
            if not parts and request.text is None and not build and _has(space, like):
                return _Query(None, like)
            parts += row_item(row).parts
        if request.text is not None:
            parts.append(Text(request.text))
        return _Query(MultimodalInput(tuple(parts), request.instruction), like)

    def _where(self, request: SearchRequest) -> Filter | None:
        folder = None
        if request.folder is not None:
            known = self.library.catalog().folders.get(request.folder)
            if known is None:
                raise RequestError(404, "no_folder", "this folder is not in the index any more")
            folder = known.path
        try:
            return row_filter(
                kinds=request.kinds,
                suffixes=request.suffixes,
                folder=folder,
                modified_after=request.after,
                modified_before=request.before,
                pages=request.pages,
                duration=request.duration,
            )
        except ConfigError as error:
            raise RequestError(400, "filter", str(error)) from None

    def _look_up(
        self,
        request: SearchRequest,
        space: Space,
        query: _Query,
        vector: np.ndarray | None,
        where: Filter | None,
        took: dict[str, float],
    ) -> tuple[Searcher, list[Hit], dict[str, Row]]:
        started = time.perf_counter()
        with space.reading(request.dimension) as searcher:
            width = searcher.index.dimension
            if vector is None and query.item is None:
                assert query.like is not None
                vector = space.index.vectors([query.like])[0]
            depth = request.k + (query.like is not None)
            if request.rerank:
                depth = max(depth, self.settings.rerank_depth)
            hits = searcher.search_vectors(
                None if vector is None else shortened(vector, width)[None],
                depth,
                queries=None if query.item is None else [query.item],
                where=where,
                mode=request.mode,
            )[0]
            hits = [hit for hit in hits if hit.id != query.like]
            found = searcher.index.get([hit.id for hit in hits])
            took["search_ms"] = _milliseconds(started)
        return searcher, hits, {row.id: row for row in found}

    def _reranked(
        self, searcher: Searcher, query: _Query, hits: list[Hit], request: SearchRequest
    ) -> list[Hit]:
        item = query.item
        if item is None:
            assert request.like is not None
            item = row_item(self.library.row(request.like)[1])
        try:
            return searcher.rerank(
                item, hits, instruction=request.instruction, depth=self.settings.rerank_depth
            )
        except KeyError:  # another process has removed a row since
            raise RequestError(503, "index_changed", "the index has changed; try again") from None


def _has(space: Space, row_id: str) -> bool:
    with space.lock:
        try:
            space.index.get([row_id])
        except KeyError:
            return False
    return True


def _milliseconds(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)
