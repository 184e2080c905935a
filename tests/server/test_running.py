"""Connections on which the head of a request does not arrive are closed; others are not."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from mmembed.errors import ConfigError
from mmembed.server.listening import address_of, take_port
from mmembed.server.running import _protocol


def test_a_head_that_does_not_arrive_ends_its_connection_only() -> None:
    app, seen_closed = FastAPI(), asyncio.Event()

    @app.post("/waits-for-the-others")
    async def waits() -> str:
        await asyncio.wait_for(seen_closed.wait(), 30)
        return "answered"

    @app.get("/closed")
    async def closed() -> None:
        seen_closed.set()

    taken = take_port("127.0.0.1", 0)
    config = uvicorn.Config(app, http=_protocol(0.3), ws="none", log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url, port = address_of(taken), taken.getsockname()[1]
    answers: list[str] = []
    patient = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{url}/waits-for-the-others", timeout=60).json())
    )
    patient.start()
    try:
        with httpx.Client() as kept:
            assert kept.get(f"{url}/none").status_code == 404
            for begun in (b"", b"GET /clo", b"GET /closed HTTP/1.1\r\nhost: x\r\n"):
                with socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
                    slow.sendall(begun)
                    assert _rest(slow) == b""
            assert kept.get(f"{url}/closed").status_code == 200  # the same connection
        patient.join(60)
        assert answers == ["answered"]
    finally:
        server.should_exit = True
        thread.join(30)


def _rest(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1000)
    except ConnectionResetError:
        return b""


def test_a_port_is_taken_once() -> None:
    with take_port("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert address_of(taken) == f"http://127.0.0.1:{port}"
        taken.listen()
        with pytest.raises(ConfigError, match=f"port {port} is in use"):
            take_port("127.0.0.1", port)


def test_an_address_that_is_not_of_this_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match="no address of this machine"):
        take_port("192.0.2.1", 0)
    with pytest.raises(ConfigError, match="no such address"):
        take_port("no such host", 0)
