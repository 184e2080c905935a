"""The routes below /api, all JSON or pictures.

    GET    /api/info
    POST   /api/search                        SearchRequest -> hits
    POST   /api/explain                       SearchRequest, or {"row": id} -> what the model reads
    POST   /api/uploads?name=FILE             raw bytes -> id, kind, pages, duration
    DELETE /api/uploads/{id}
    GET    /api/uploads/{id}/thumbnail        ?page=N&width=W
    GET    /api/rows/{id}                     one row with its whole text and boxes
    GET    /api/rows/{id}/page                ?number=N&width=W: any page of that file
    GET    /api/rows/{id}/boxes               ?number=N&words=...
    GET    /api/thumbnails/{id}               ?width=W
    GET    /api/media/{id}                    a film with ranges, or the picture up to 2,000 pixels

Rows are named by opaque ids. `media` of a hit is null for texts and pages; pages have
/api/rows/{id}/page. `width` and `height` of a hit are null: no file is opened to answer a search.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool

from mmembed import __version__
from mmembed.demo.library import Library
from mmembed.demo.media import film_response
from mmembed.demo.pictures import WIDTHS, Picture
from mmembed.demo.requests import ExplainRequest, SearchRequest
from mmembed.demo.results import describe_boxes, describe_row
from mmembed.demo.searching import Searches
from mmembed.demo.settings import DemoSettings
from mmembed.demo.thumbnails import Thumbnails
from mmembed.demo.uploads import Upload, Uploads
from mmembed.search.rows import KINDS, Row
from mmembed.search.searcher import MODES
from mmembed.server.errors import RequestError
from mmembed.server.http_limits import read_json

__all__ = ["UPLOADS", "api_routes"]

UPLOADS = "/api/uploads"  # reads its own body
_DRAWING_THREADS = 8

Model = TypeVar("Model", bound=BaseModel)
Id = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
Width = Annotated[int, Query(ge=1, le=WIDTHS[-1])]
Number = Annotated[int, Query(ge=1, le=1_000_000)]


def api_routes(
    library: Library,
    searches: Searches,
    uploads: Uploads,
    thumbnails: Thumbnails,
    settings: DemoSettings,
) -> APIRouter:
    """The router; everything that blocks runs in threads."""
    router = APIRouter(prefix="/api")
    # pictures and uploads wait for decode processes; searches must not wait for them
    drawing = CapacityLimiter(_DRAWING_THREADS)

    async def row_of(name: str) -> Row:
        _, found = await run_in_threadpool(library.row, name)
        return found

    async def picture(make: Callable[..., Picture], *arguments: Any) -> Response:
        found = await run_sync(make, *arguments, limiter=drawing)
        headers = {"cache-control": "private, max-age=300"}
        return Response(found.data, media_type=found.media_type, headers=headers)

    @router.get("/info")
    def info() -> dict[str, Any]:
        with library.first.reading():  # what an indexer added shows when the page is loaded again
            examples = library.first.index.settings.get("examples") or {}
        return {
            "title": library.title,
            "version": __version__,
            "rows": len(library.first.index),
            **library.catalog().describe(),
            "spaces": [space.describe() for space in library.spaces.values()],
            "modes": list(MODES),
            "reranker": library.reranker is not None,
            "examples": {kind: list(examples.get(kind, ())) for kind in ("all", *KINDS)},
            "limits": {
                "upload_bytes": settings.upload_bytes,
                "text_chars": settings.text_chars,
                "k": settings.k,
            },
        }

    @router.post("/search")
    async def search(request: Request) -> dict[str, Any]:
        return await searches.search(await _parsed(request, SearchRequest))

    @router.post("/explain")
    async def explain(request: Request) -> dict[str, Any]:
        return await searches.explain(await _parsed(request, ExplainRequest))

    @router.post("/uploads")
    async def upload(
        request: Request, name: Annotated[str, Query(max_length=1000)] = "file"
    ) -> dict[str, Any]:
        arrived = await uploads.receive(request.stream(), name)
        return _describe_upload(await run_sync(uploads.inspect, arrived, limiter=drawing))

    @router.delete("/uploads/{upload_id}", status_code=204)
    def remove_upload(upload_id: Id) -> Response:
        uploads.remove(upload_id)
        return Response(status_code=204)

    @router.get("/uploads/{upload_id}/thumbnail")
    async def upload_thumbnail(upload_id: Id, width: Width = 320, page: Number = 1) -> Response:
        found = uploads.get(upload_id)
        part = found.poster(page if found.kind == "pdf" else None)
        return await picture(thumbnails.of_upload, found.id, part, width)

    @router.get("/rows/{row_id}")
    def row(row_id: Id) -> dict[str, Any]:
        _, found = library.row(row_id)
        return {**describe_row(found, library.catalog()), "boxes": describe_boxes(found)}

    @router.get("/rows/{row_id}/page")
    async def page(row_id: Id, number: Number | None = None, width: Width = 1000) -> Response:
        found = await row_of(row_id)
        return await picture(thumbnails.of_row, found, width, number or found.page or 1)

    @router.get("/rows/{row_id}/boxes")
    def boxes(
        row_id: Id,
        number: Number | None = None,
        words: Annotated[str, Query(max_length=1000)] = "",
    ) -> dict[str, Any]:
        space, found = library.row(row_id)
        if number is not None and number != found.page:
            other = library.page_row(found, space, number)
            if other is None:
                raise RequestError(404, "no_page", f"page {number} is not in the index")
            found = other
        return {"boxes": describe_boxes(found, words)}

    @router.get("/thumbnails/{row_id}")
    async def thumbnail(row_id: Id, width: Width = 320) -> Response:
        return await picture(thumbnails.of_row, await row_of(row_id), width)

    @router.get("/media/{row_id}")
    async def media(row_id: Id) -> Response:
        found = await row_of(row_id)
        if found.kind == "video":
            return await run_in_threadpool(film_response, found)
        if found.kind == "image":
            return await picture(thumbnails.of_row, found, WIDTHS[-1])
        raise RequestError(404, "no_media", "only pictures and films are sent whole")

    return router


async def _parsed(request: Request, model: type[Model]) -> Model:
    """The body as a strict model. No other page can send JSON without asking first.

    Raises:
        RequestError: 415, 400 (see `read_json`), 422.
    """
    await read_json(request, keep_body=True)
    try:
        return model.model_validate_json(await request.body(), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:100]
        message = f"{where or 'the request'}: {first['msg']}"
        raise RequestError(422, "invalid_request", message, param=where or None) from None


def _describe_upload(upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "kind": upload.kind,
        "name": upload.name,
        "thumbnail": f"/api/uploads/{upload.id}/thumbnail",
        "pages": upload.pages,
        "duration": upload.duration,
    }
