"""The demo as one ASGI application: guard > api and the static page.

Library -> create_demo -> server.running
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

from mmembed.demo.api import UPLOADS, api_routes
from mmembed.demo.encoding import QueryEncoders
from mmembed.demo.guard import Guard, PageHeaders
from mmembed.demo.library import Library
from mmembed.demo.searching import Searches
from mmembed.demo.settings import DemoSettings
from mmembed.demo.thumbnails import Thumbnails
from mmembed.demo.uploads import Uploads
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.server.envelope import Envelope
from mmembed.server.errors import RequestError
from mmembed.server.http_limits import HttpLimits
from mmembed.server.metrics import Metrics
from mmembed.server.settings import ServerSettings

__all__ = ["create_demo"]

STATIC = Path(__file__).parent / "static"
# not from the system's table, which may call a script plain text
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
}


def create_demo(
    library: Library,
    settings: DemoSettings | None = None,
    server: ServerSettings | None = None,
) -> FastAPI:
    """The page over a library; uploads and decode processes end with the application.

    Args:
        server: where it listens, its keys, and the queue of the models.
    """
    settings, server = settings or DemoSettings(), server or ServerSettings()
    policy = library.first.embedder.processor.decoder.policy
    decoder = MediaDecoder(
        replace(policy, allow_urls=False, scaled_jpeg=True), settings.decode_workers
    )
    uploads = Uploads(settings, decoder)
    thumbnails = Thumbnails(decoder, settings.thumbnail_cache_bytes)
    encoders = QueryEncoders(library, server)
    searches = Searches(library, uploads, encoders, settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await encoders.start()
        try:
            yield
        finally:
            await encoders.stop()
            uploads.close()
            decoder.close()

    app = FastAPI(
        docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, lifespan=lifespan
    )
    app.state.stopping = False
    app.include_router(api_routes(library, searches, uploads, thumbnails, settings))
    _add_static(app)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_middleware(
        HttpLimits,
        max_body_bytes=settings.body_bytes,
        max_buffered_bytes=server.max_buffered_bytes,
        body_timeout_seconds=server.body_timeout_seconds,
        max_json_depth=server.max_json_depth,
        streamed=(UPLOADS,),
    )
    app.add_middleware(Guard, settings=server)
    app.add_middleware(Envelope, metrics=Metrics(), headers={})
    app.add_middleware(PageHeaders)
    return app


def _add_static(app: FastAPI) -> None:
    """The files of the page, by the names they have now: no path of a request reaches the disk."""

    def answer(name: str) -> FileResponse:
        if name not in {path.name for path in STATIC.iterdir()}:
            raise RequestError(404, "not_found", "there is no such file")
        path = STATIC / name
        headers = {"cache-control": "no-cache"}  # ask again; the ETag then saves the bytes
        media_type = _TYPES.get(path.suffix, "application/octet-stream")
        return FileResponse(path, media_type=media_type, headers=headers)

    @app.get("/")
    def page() -> FileResponse:
        return answer("index.html")

    @app.get("/static/{name}")
    def static(name: str) -> FileResponse:
        return answer(name)


def _http_error(request: Request, error: Exception) -> Any:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    raise RequestError(error.status_code, code, str(error.detail))


def _validation_error(request: Request, error: Exception) -> Any:
    assert isinstance(error, RequestValidationError)
    first: Mapping[str, Any] = next(iter(error.errors()), {})
    param = ".".join(map(str, first.get("loc", ())[1:]))[:100]
    message = f"{param or 'the request'}: {first.get('msg', 'is not valid')}"
    raise RequestError(422, "invalid_request", message, param=param or None)
