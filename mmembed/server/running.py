"""The process of a server: it listens, says that it is ready, and ends without losing a request.

SIGTERM or Ctrl-C: no new connections, `/ready` says 503, what was accepted is answered within the
grace time, exit code 0. A second Ctrl-C ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from mmembed.errors import ConfigError
from mmembed.server.listening import Taken, address_of, refusal_text, take_port
from mmembed.server.settings import ServerSettings

__all__ = ["run"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_INTERRUPTED = 130


def run(
    app: FastAPI,
    settings: ServerSettings,
    *,
    taken: Taken | None = None,
    on_ready: Callable[[str], None] = lambda address: None,
    access_log: bool = True,
) -> None:
    """Serve until a signal; returns when everything that was accepted is answered.

    Args:
        taken: from `take_port`, where that came first; it is closed here.
        on_ready: called with the address, once requests are accepted.
        access_log: one line of JSON on standard error for each request.

    Raises:
        ConfigError: the port cannot be had.
    """
    taken = taken or take_port(settings.host, settings.port)
    config = uvicorn.Config(
        app,
        http=_protocol(settings.header_timeout_seconds),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.max_connections,
        h11_max_incomplete_event_size=settings.max_header_bytes,
        timeout_keep_alive=settings.idle_timeout_seconds,
        timeout_graceful_shutdown=max(1, round(settings.grace_seconds)),
    )
    server = _Server(config, lambda: on_ready(address_of(taken)))
    with _logging(access_log), contextlib.closing(taken):
        try:
            asyncio.run(server.serve(sockets=[taken]))
        except OSError as error:
            raise ConfigError(refusal_text(error, settings.host, settings.port)) from None
        except SystemExit:  # uvicorn's way to say that the application did not start
            raise ConfigError("the server did not start; the log above says why") from None
    if server.force_exit:  # threads at work would hold the process
        sys.stderr.flush()
        os._exit(_INTERRUPTED)


class _Server(uvicorn.Server):
    """Says when it is ready, and ends with code 0 on a signal that it has obeyed."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[Taken] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.config.app.state.stopping = True  # type: ignore[union-attr]
        super().handle_exit(sig, frame)


def _protocol(header_seconds: float) -> type[H11Protocol]:
    """HTTP/1.1 that closes connections on which the head of a request does not arrive."""

    class Protocol(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_is_here()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            idle = self.cycle is None or self.cycle.response_complete
            if idle and self._head_timer is None:
                self._await_head()
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:
                self._head_is_here()

        def _await_head(self) -> None:
            self._head_timer = self.loop.call_later(header_seconds, self._too_late)

        def _head_is_here(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _too_late(self) -> None:
            self._head_timer = None
            if not self.transport.is_closing():
                self.transport.abort()

    return Protocol


@contextlib.contextmanager
def _logging(access_log: bool) -> Iterator[None]:
    """Warnings of everybody and the lines of requests, on standard error, for this run."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    handler.setLevel(logging.WARNING)
    lines = logging.StreamHandler()
    lines.setFormatter(logging.Formatter("%(message)s"))
    root, access = logging.getLogger(), logging.getLogger("mmembed.server.access")
    before = access.level, access.propagate
    root.addHandler(handler)
    access.propagate = False
    access.setLevel(logging.INFO if access_log else logging.WARNING)
    access.addHandler(lines)
    try:
        yield
    finally:
        root.removeHandler(handler)
        access.removeHandler(lines)
        access.level, access.propagate = before
