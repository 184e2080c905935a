"""The routes that embed and rerank: each reads one dialect, and answers in it.

    JSON -> dialect -> EmbedCall -> EncodeEngine -> Embedded -> dialect -> JSON

Reading a body and writing an answer are work for a thread: megabytes of base64 must not keep
`/health` waiting.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response

from mmembed.encoder.loaded_model import LoadedModel
from mmembed.server.dialects.call import Context, EmbedCall, Embedded, embed
from mmembed.server.dialects.cohere import cohere_answer, cohere_call, embedding_types
from mmembed.server.dialects.media import MediaReader
from mmembed.server.dialects.openai import openai_answer, openai_call
from mmembed.server.dialects.rerank import rerank_answer, rerank_call, score
from mmembed.server.dialects.voyage import voyage_answer, voyage_call
from mmembed.server.engine import EncodeEngine, RerankEngine
from mmembed.server.errors import RequestError
from mmembed.server.http_limits import read_json
from mmembed.server.settings import ServerSettings

__all__ = ["embedding_routes", "served_names"]

_TEXT = "data:image/png;base64,..."
_EXAMPLES: dict[str, Any] = {
    "/v1/embeddings": {"input": ["a red bicycle", {"image": _TEXT}], "input_type": "document"},
    "/v2/embed": {
        "texts": ["a red bicycle"],
        "input_type": "search_query",
        "embedding_types": ["float"],
    },
    "/v1/multimodalembeddings": {
        "inputs": [{"content": [{"type": "image_base64", "image_base64": _TEXT}]}],
        "input_type": "document",
    },
    "/v1/rerank": {"query": "a red bicycle", "documents": ["a car", {"image": _TEXT}]},
}


def served_names(model: LoadedModel, aliases: tuple[str, ...]) -> tuple[str, ...]:
    """The names under which a model may be asked for; the first is the one in answers."""
    folder = () if model.folder is None else (_name(model.folder),)
    return tuple(dict.fromkeys([*aliases, *folder])) or ("mmembed",)


def _name(folder: Path) -> str:
    """The folder's name; the id of a model that lies in the cache of the hub, by its layout
    `models--ORGANISATION--NAME/snapshots/REVISION`."""
    *_, cache, snapshots, name = ("", "", *folder.parts)
    if snapshots == "snapshots" and cache.startswith("models--"):
        return cache.removeprefix("models--").replace("--", "/")
    return name


def embedding_routes(
    engine: EncodeEngine, settings: ServerSettings, rerank: RerankEngine | None = None
) -> APIRouter:
    """Every route that runs a model. Errors leave as `RequestError`; the app writes them down."""
    router = APIRouter()
    embedder = engine.embedder
    context = _context(embedder, settings.model_names, engine.dimension, settings)
    tokens = embedder.processor.tokens

    async def answer(
        request: Request,
        read: Callable[[Any], EmbedCall],
        write: Callable[[EmbedCall, Embedded], Any],
    ) -> Response:
        # the call only is kept: base64 of pictures is twice as large as what it stands for
        call = await asyncio.to_thread(read, await read_json(request))
        embedded = await embed(engine, call)
        return await asyncio.to_thread(_json, write, call, embedded)

    @router.post("/v1/embeddings", openapi_extra=_documented("/v1/embeddings"))
    async def openai_embeddings(request: Request) -> Response:
        """OpenAI, vLLM (`messages`), Jina (objects in `input`), infinity (`modality`)."""
        return await answer(
            request,
            lambda body: openai_call(body, context, tokens),
            lambda call, embedded: openai_answer(call, embedded, context),
        )

    @router.post("/v2/embed", openapi_extra=_documented("/v2/embed"))
    async def cohere_embeddings(request: Request) -> Response:
        """Cohere."""
        types: list[Any] = []

        def read(body: Any) -> EmbedCall:
            call = cohere_call(body, context)
            types.extend(embedding_types(body))
            return call

        return await answer(
            request, read, lambda call, embedded: cohere_answer(call, embedded, types)
        )

    @router.post("/v1/multimodalembeddings", openapi_extra=_documented("/v1/multimodalembeddings"))
    async def voyage_embeddings(request: Request) -> Response:
        """Voyage."""
        return await answer(
            request,
            lambda body: voyage_call(body, context),
            lambda call, embedded: voyage_answer(call, embedded, context),
        )

    _add_rerank(router, rerank, settings)
    return router


def _add_rerank(router: APIRouter, rerank: RerankEngine | None, settings: ServerSettings) -> None:
    context = None
    if rerank is not None:
        context = _context(rerank.reranker, settings.reranker_names, 1, settings)

    async def answer(request: Request, return_documents: bool) -> Response:
        if rerank is None or context is None:
            raise RequestError(
                404,
                "no_reranker",
                "no reranker is served here; `mmembed serve --reranker FOLDER` would",
            )
        call = await asyncio.to_thread(
            rerank_call, await read_json(request), context, return_documents=return_documents
        )
        scores = await score(rerank, call)
        return await asyncio.to_thread(_json, rerank_answer, call, scores, context)

    @router.post("/v1/rerank", openapi_extra=_documented("/v1/rerank"))
    @router.post("/rerank", openapi_extra=_documented("/v1/rerank"))
    async def rerank_documents(request: Request) -> Response:
        """Jina and vLLM: documents come back unless `return_documents` is false."""
        return await answer(request, True)

    @router.post("/v2/rerank", openapi_extra=_documented("/v1/rerank"))
    async def cohere_rerank(request: Request) -> Response:
        """Cohere: documents come back if `return_documents` is true."""
        return await answer(request, False)


def _context(
    model: LoadedModel, aliases: tuple[str, ...], dimension: int, settings: ServerSettings
) -> Context:
    processor = model.processor
    most_bytes = {
        "image": settings.max_image_bytes,
        "video": settings.max_video_bytes,
        "pdf": settings.max_pdf_bytes,
    }
    return Context(
        names=served_names(model, aliases),
        dimension=dimension,
        max_tokens=min(settings.max_item_tokens, processor.config.max_tokens),
        media=MediaReader(processor.decoder.policy, most_bytes),  # type: ignore[arg-type]
        settings=settings,
    )


def _json(write: Callable[..., Any], *arguments: Any) -> Response:
    return Response(_written(write(*arguments)), media_type="application/json")


def _written(value: Any) -> str:
    """JSON in ASCII (an echoed text may hold half of a character), vector by vector: one call
    for all of a large answer would keep every other thread of the process waiting."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_written(value[key])}" for key in value) + "}"
    if isinstance(value, list) and any(isinstance(each, dict | list) for each in value):
        return "[" + ",".join(map(_written, value)) + "]"
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _documented(path: str) -> dict[str, Any]:
    schema = {"schema": {"type": "object"}, "example": _EXAMPLES[path]}
    return {"requestBody": {"required": True, "content": {"application/json": schema}}}
