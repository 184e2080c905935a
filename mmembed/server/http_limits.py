"""Limits on what arrives over HTTP, before anything is made of it.

`HttpLimits` counts bodies while they arrive and gives up what a client no longer waits for.
`read_json` parses a body so that neither depth, nor the number of values, nor two values under one
key get past it.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable, Collection
from typing import Any, NoReturn

import numpy as np
from starlette.requests import Request

from mmembed.server.errors import RequestError, Stopping

__all__ = ["HttpLimits", "parse_json", "read_json"]

Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_BYTES_PER_SECOND = 1_000_000  # of a body that takes longer than its time
_LINGER_SECONDS = 30.0
_LINGER_SILENT_SECONDS = 1.0
_SMALL_BODY = 100_000
# A string ends at its quote or, in bad JSON, with the body: so this never looks at a byte twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_HUGE_NUMBER = re.compile(rb"[0-9]{20}")
_MOST_DIGITS = 19


class HttpLimits:
    """ASGI: a body is in memory before the application sees the request, or refused.

    The application is cancelled when its client has left.

    Args:
        max_body_bytes: of one request.
        max_buffered_bytes: of all that are in memory. A large body is taken or refused at its
            head, so that bodies which arrive together never refuse each other half-way.
        body_timeout_seconds: until all of it is here, and a second more for each megabyte.
        max_json_depth, max_json_values: what `read_json` takes.
        streamed: paths whose application reads the body itself and bounds it.
    """

    def __init__(
        self,
        app: App,
        *,
        max_body_bytes: int,
        max_buffered_bytes: int,
        body_timeout_seconds: float,
        max_json_depth: int = 20,
        max_json_values: int = 500_000,
        streamed: Collection[str] = (),
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._max_buffered_bytes = max_buffered_bytes
        self._body_timeout_seconds = body_timeout_seconds
        self._json_limits = {"max_depth": max_json_depth, "max_values": max_json_values}
        self._streamed = frozenset(streamed)
        self._announced_bytes = 0  # of large bodies, from their heads
        self.buffered_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._limited(scope, receive, send)
        except asyncio.CancelledError:  # of the whole request: the time to stop is over
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            raise Stopping().closing() from None

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["json_limits"] = self._json_limits
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            message = "compressed bodies are not taken; send them as they are"
            await _linger(receive, RequestError(415, "unsupported_encoding", message))
        if scope["path"] in self._streamed:
            await self._app(scope, receive, send)
            return
        if b"content-length" not in headers and b"transfer-encoding" not in headers:
            await self._run(scope, receive, send, [b""])
            return
        declared = _length(headers)
        if (error := self._refusal_of_head(declared)) is not None:
            if b"expect" in headers:  # the client waits for leave to send it
                raise error.closing()
            await _linger(receive, error)
        announced = declared if declared > _SMALL_BODY else 0
        self._announced_bytes += announced
        kept, size = bytearray(), 0
        try:
            if await self._read(receive, kept):
                body, size = [bytes(kept)], len(kept)
                kept.clear()  # it is in memory once
                await self._run(scope, receive, send, body)
        finally:
            self.buffered_bytes -= len(kept) + size
            self._announced_bytes -= announced

    async def _read(self, receive: Receive, kept: bytearray) -> bool:
        """Fill `kept` with the body; each byte is counted. False: the client has left."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._body_timeout_seconds
        while True:
            left = deadline + len(kept) / _BYTES_PER_SECOND - loop.time()
            try:
                message = await asyncio.wait_for(receive(), max(left, 0))
            except TimeoutError:
                raise RequestError(
                    408, "body_timeout", f"the body had not arrived after {len(kept):,} bytes"
                ) from None
            if message["type"] == "http.disconnect":
                return False
            piece, more = message.get("body", b""), message.get("more_body", False)
            error = self._refusal(len(kept) + len(piece), len(piece))
            if error is not None:
                self.buffered_bytes -= len(kept)
                kept.clear()
                if more:
                    await _linger(receive, error)
                raise error
            kept += piece
            self.buffered_bytes += len(piece)
            if not more:
                return True

    def _refusal_of_head(self, declared: int) -> RequestError | None:
        if declared > self._max_body_bytes:
            return self._too_large(declared)
        full = self._announced_bytes + declared > self._max_buffered_bytes
        return _too_many() if full and declared > _SMALL_BODY else None

    def _refusal(self, received: int, new: int) -> RequestError | None:
        if received > self._max_body_bytes:
            return self._too_large(None)
        full = self.buffered_bytes + new > self._max_buffered_bytes
        return _too_many() if full else None

    async def _run(self, scope: Scope, receive: Receive, send: Send, body: list[bytes]) -> None:
        """The application, until it has answered or nobody waits for the answer.

        It takes the one piece of `body`, so that nobody else holds it.
        """
        task = asyncio.current_task()
        assert task is not None
        gone = asyncio.Event()
        answered = False

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            if not answered:
                task.cancel()

        async def replay() -> Message:
            if body:
                return {"type": "http.request", "body": body.pop(), "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def counted(message: Message) -> None:
            nonlocal answered
            answered = answered or (
                message["type"] == "http.response.body" and not message.get("more_body", False)
            )
            await send(message)

        watcher = asyncio.create_task(watch())
        try:
            await self._app(scope, replay, counted)
        except asyncio.CancelledError:
            if not gone.is_set():
                raise
            task.uncancel()
        finally:
            answered = True
            watcher.cancel()

    def _too_large(self, found: int | None) -> RequestError:
        size = f"{found:,} bytes" if found is not None else "more"
        return RequestError(
            413,
            "body_too_large",
            f"the body has {size}; the server takes {self._max_body_bytes:,} bytes in a request",
        )


def _too_many() -> RequestError:
    message = "other requests fill the memory for bodies; try again in 1 s"
    return RequestError(429, "overloaded", message, retry_after=1)


async def _linger(receive: Receive, error: RequestError) -> NoReturn:
    """Read on while something comes, or the client's system would drop the answer unread."""

    async def rest() -> None:
        message: Message = {"type": "http.request", "more_body": True}
        while message["type"] == "http.request" and message.get("more_body", False):
            message = await asyncio.wait_for(receive(), _LINGER_SILENT_SECONDS)

    try:
        await asyncio.wait_for(rest(), _LINGER_SECONDS)
    except TimeoutError:
        pass
    raise error.closing()


def _length(headers: dict[bytes, bytes]) -> int:
    value = headers.get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0


async def read_json(request: Request, *, keep_body: bool = False) -> Any:
    """The body of a request behind `HttpLimits`. Routes use this and not `request.json()`.

    Args:
        keep_body: `request.body()` gives it later; else its memory is free when it is read.

    Raises:
        RequestError: 415 for another content type, 400 for what `parse_json` refuses.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise RequestError(
            415,
            "unsupported_content_type",
            "send JSON with the header content-type: application/json",
        )
    if keep_body:
        body = await request.body()
    else:
        body = b"".join([piece async for piece in request.stream() if piece])
    limits = request.state.json_limits
    if len(body) < _SMALL_BODY:
        return parse_json(body, **limits)
    return await asyncio.to_thread(parse_json, body, **limits)


def parse_json(body: bytes, *, max_depth: int = 20, max_values: int = 500_000) -> Any:
    """JSON within limits, which are checked before anything is built.

    Raises:
        RequestError: not JSON in UTF-8; too deep or too many values; a key twice; NaN, Infinity
            or a number that is too large.
    """
    outline = _STRING.sub(b"", body)
    letters = np.frombuffer(outline, dtype=np.uint8)
    opens = (letters == ord("[")) | (letters == ord("{"))
    closes = (letters == ord("]")) | (letters == ord("}"))
    num_values = int(np.count_nonzero(letters == ord(","))) + int(np.count_nonzero(opens)) + 1
    if num_values > max_values:
        raise _bad_json(f"about {num_values:,} values; allowed: {max_values:,}")
    depth = int(np.cumsum(opens.astype(np.int64) - closes).max(initial=0))
    if depth > max_depth:
        raise _bad_json(f"nested {depth:,} deep; allowed: {max_depth}")
    hooks: dict[str, Any] = {"parse_int": _int} if _HUGE_NUMBER.search(outline) else {}
    try:
        return json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            **hooks,
        )
    except UnicodeDecodeError:
        raise _bad_json("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _bad_json(f"{error.msg} at character {error.pos:,}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _bad_json("a key appears twice in one object")
    return found


def _constant(name: str) -> NoReturn:
    raise _bad_json(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _bad_json("a number is too large")
    return value


def _int(text: str) -> int:
    if len(text.lstrip("-")) > _MOST_DIGITS:
        raise _bad_json(f"a number has more than {_MOST_DIGITS} digits")
    return int(text)


def _bad_json(detail: str) -> RequestError:
    return RequestError(400, "invalid_json", f"the body is no JSON that is taken here: {detail}")
