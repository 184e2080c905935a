"""The application: routes of the dialects and of operation, behind access control and limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from mmembed import __version__
from mmembed.server.access import AccessControl
from mmembed.server.engine import EncodeEngine, RerankEngine
from mmembed.server.envelope import Envelope
from mmembed.server.errors import RequestError, Stopping
from mmembed.server.http_limits import App, HttpLimits
from mmembed.server.lanes import ModelEngine
from mmembed.server.metrics import CONTENT_TYPE, Metrics, resident_bytes
from mmembed.server.routes import embedding_routes, served_names
from mmembed.server.settings import ServerSettings

__all__ = ["create_app", "guarded"]

_NO_LIMITS = {"host", "port", "no_auth", "model_names", "reranker_names", "batch_tokens"}

_DECODING = ("timeout_seconds", "page_timeout_seconds", "memory_bytes")


def create_app(
    engine: EncodeEngine, settings: ServerSettings, *, rerank: RerankEngine | None = None
) -> FastAPI:
    """The server as an ASGI application; it starts and stops its engines."""
    engines: list[ModelEngine] = [engine] if rerank is None else [engine, rerank]
    for other in engines[1:]:
        other.report_to(engine.metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for one in engines:
            await asyncio.to_thread(one.start)
        yield
        await asyncio.gather(*(one.stop(settings.grace_seconds) for one in engines))

    # no page of documentation: it would load scripts from elsewhere
    app = FastAPI(
        title="mmembed",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.include_router(_operation(engine, settings, rerank))
    app.include_router(embedding_routes(engine, settings, rerank))
    decoder = engine.embedder.processor.decoder
    engine.metrics.gauge("decode_processes_total", lambda: decoder.num_started)
    engine.metrics.gauge("process_resident_bytes", resident_bytes)
    engine.metrics.gauge("ready", lambda: float(_is_ready(app, engines)))
    app.state.engines = engines
    app.state.stopping = False
    guarded(app, settings, engine.metrics, headers={"x-embedding-space": engine.space})
    return app


def guarded(
    app: FastAPI, settings: ServerSettings, metrics: Metrics, *, headers: Mapping[str, str]
) -> None:
    """Put envelope, access control and limits round an application, and its errors in form."""

    def limited(inner: App) -> App:
        limits = HttpLimits(
            inner,
            max_body_bytes=settings.max_body_bytes,
            max_buffered_bytes=settings.max_buffered_bytes,
            body_timeout_seconds=settings.body_timeout_seconds,
            max_json_depth=settings.max_json_depth,
            max_json_values=settings.max_json_values,
        )
        metrics.gauge("http_buffered_bytes", lambda: limits.buffered_bytes)
        return limits

    app.add_middleware(limited)
    app.add_middleware(AccessControl, settings=settings)
    app.add_middleware(Envelope, metrics=metrics, headers=headers)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)


def _http_error(request: Request, error: Exception) -> Any:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        raise RequestError(404, "no_such_route", "there is no such route; see /openapi.json")
    if error.status_code == 405:
        raise RequestError(405, "method_not_allowed", "this route takes another method")
    raise RequestError(error.status_code, "http_error", "the request was refused")


def _validation_error(request: Request, error: Exception) -> Any:
    assert isinstance(error, RequestValidationError)
    first: Mapping[str, Any] = next(iter(error.errors()), {})
    param = ".".join(str(step) for step in first.get("loc", ())[1:])[:100]
    message = f"{param or 'the request'}: {first.get('msg', 'is not valid')}"
    raise RequestError(400, "invalid_request", message, param=param or None)


def _is_ready(app: FastAPI, engines: list[ModelEngine]) -> bool:
    return not app.state.stopping and all(engine.is_ready for engine in engines)


def _operation(
    engine: EncodeEngine, settings: ServerSettings, rerank: RerankEngine | None
) -> APIRouter:
    """What operators ask: is it alive, is it ready, what does it do, what are its limits."""
    router = APIRouter(tags=["operation"])
    models = [served_names(engine.embedder, settings.model_names)[0]]
    if rerank is not None:
        models.append(served_names(rerank.reranker, settings.reranker_names)[0])

    @router.get("/health")
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @router.get("/ready")
    async def ready(request: Request) -> dict[str, str]:
        """Requests are accepted: 200, else 503."""
        if not _is_ready(request.app, request.app.state.engines):
            raise Stopping
        return {"status": "ready"}

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Counts and times, for Prometheus."""
        return PlainTextResponse(engine.metrics.render(), media_type=CONTENT_TYPE)

    @router.get("/info")
    async def info() -> JSONResponse:
        """The model, its space, and every limit; `decoding`: of each process that opens media."""
        model = {
            "id": models[0],
            "dimension": engine.dimension,
            "space": engine.space,
            "fingerprint": engine.fingerprint,
            "numerics": engine.embedder.numerics,
            "batch_tokens": engine.batch_tokens,
        }
        reranker = None
        if rerank is not None:
            reranker = {"id": models[1], "fingerprint": rerank.reranker.fingerprint}
        decoder = engine.embedder.processor.decoder
        decoding = {name: getattr(decoder.policy, name) for name in _DECODING}
        return JSONResponse(
            {
                "version": __version__,
                "model": model,
                "reranker": reranker,
                "limits": settings.model_dump(mode="json", exclude=_NO_LIMITS),
                "decoding": {"processes": decoder.num_workers, **decoding},
            }
        )

    @router.get("/v1/models")
    async def list_models() -> JSONResponse:
        """The names that requests may give under `model`."""
        data = [{"id": name, "object": "model", "owned_by": "mmembed"} for name in models]
        return JSONResponse({"object": "list", "data": data})

    return router
