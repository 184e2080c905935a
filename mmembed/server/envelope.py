"""Round every answer: a request id, errors in one form, counts, and one line in the log."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

from mmembed.errors import InputError, MissingDependencyError
from mmembed.server.errors import RequestError, input_request_error
from mmembed.server.http_limits import App, Message, Receive, Scope, Send
from mmembed.server.metrics import Metrics

__all__ = ["Envelope"]

access = logging.getLogger("mmembed.server.access")
logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LOGGED_PATH = 100
_GONE = 499  # in log and metrics: the client left before the answer


class Envelope:
    """ASGI, outermost. An error that nobody foresaw says nothing but the request id.

    Args:
        headers: of every answer that is no error.
    """

    def __init__(self, app: App, *, metrics: Metrics, headers: Mapping[str, str]) -> None:
        self._app = app
        self._metrics = metrics
        self._headers = [(key.encode(), value.encode()) for key, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no other protocol is spoken here
        started = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(b"x-request-id", request_id.encode())]
                extra += self._headers if status < 400 else []
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        try:
            try:
                await self._app(scope, receive, stamped)
            except Exception as error:
                if status:  # half an answer is out: the connection ends, and that says it
                    raise
                await _answer(stamped, _as_request_error(error, request_id), request_id)
        finally:
            self._note(scope, status or _GONE, request_id, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, request_id: str, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "unmatched"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.count("http_requests_total", route=route, method=method, status=str(status))
        self._metrics.observe("http_request_seconds", seconds, route=route)
        if access.isEnabledFor(logging.INFO):
            client = scope.get("client") or ("",)
            line: dict[str, Any] = {
                "request_id": request_id,
                "client": client[0],
                "method": scope["method"][:16],
                "path": scope["path"][:_LOGGED_PATH],
                "status": status,
                "ms": round(seconds * 1000, 1),
            }
            access.info(json.dumps(line))


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def _request_id(scope: Scope) -> str:
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _as_request_error(error: Exception, request_id: str) -> RequestError:
    if isinstance(error, RequestError):
        return error
    if isinstance(error, InputError):
        return input_request_error(error)
    if isinstance(error, MissingDependencyError):
        return RequestError(501, "not_installed", str(error))
    logger.error("request %s", request_id, exc_info=error)
    return RequestError(500, "internal_error", "the server failed on this request")


async def _answer(send: Send, error: RequestError, request_id: str) -> None:
    body = json.dumps(error.body(request_id)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.closes:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
