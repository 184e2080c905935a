"""What arrives over HTTP is bounded before anything is made of it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from hypothesis import given
from hypothesis import strategies as st

from mmembed.server.app import guarded
from mmembed.server.errors import RequestError
from mmembed.server.http_limits import parse_json, read_json
from mmembed.server.metrics import Metrics
from mmembed.server.settings import ServerSettings
from tests.server.door import listening

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values, st.booleans())
def test_ordinary_json_is_what_the_standard_library_makes_of_it(value: Any, ascii: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    try:
        expected = json.loads(body)
    except UnicodeDecodeError:  # half of a character, not escaped
        with pytest.raises(RequestError, match="UTF-8"):
            parse_json(body)
        return
    assert parse_json(body) == expected


@given(st.binary(max_size=200) | st.text('[]{},:"\\0123456789eE.-+ntrufalse ').map(str.encode))
def test_any_bytes_are_a_value_or_a_refusal(body: bytes) -> None:
    try:
        found = parse_json(body)
    except RequestError as error:
        assert (error.status, error.code) == (400, "invalid_json")
    else:
        assert found == json.loads(body)


def nested(depth: int, *, inside: str = "1") -> bytes:
    return ("[" * depth + inside + "]" * depth).encode()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (nested(21), "nested 21 deep; allowed: 20"),
        (nested(500_000), "values"),
        (b'{"a":' * 30 + b"1" + b"}" * 30, "nested 30 deep"),
        (b"[" + b"1," * 500_000 + b"1]", "values; allowed: 500,000"),
        (b"[" + b"[]," * 300_000 + b"1]", "values"),
        (b'{"input": "a", "input": "b"}', "twice"),
        (b'[{"x": {"y": 1, "y": 1}}]', "twice"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b"[1e999]", "too large"),
        (b"[" + b"9" * 5000 + b"]", "digits"),
        (b'["\xff"]', "UTF-8"),
        (b"", "character 0"),
        (b'{"a": 1} x', "Extra data"),
        (b'"' + b'\\"' * 100_000, "Unterminated"),
        (b'"' + b"\\" * 100_001, "Unterminated|Invalid"),
        ("\ufeff{}".encode(), "BOM"),
    ],
)
def test_what_json_may_not_be_is_refused_with_a_reason(body: bytes, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as refused:
        parse_json(body)
    assert refused.value.status == 400
    assert len(refused.value.message) < 200


def test_brackets_and_commas_of_a_text_do_not_count() -> None:
    text = '[{,"' * 400_000
    assert parse_json(json.dumps([text]).encode(), max_depth=1, max_values=2) == [text]
    assert parse_json(nested(20)) == json.loads(nested(20))


class Probe:
    """An application that says what it was given, and whether it was cancelled."""

    def __init__(self, **limits: Any) -> None:
        self.cancelled = asyncio.Event()
        self.app = FastAPI()
        self.metrics = Metrics()

        @self.app.post("/echo")
        async def echo(request: Request) -> Any:
            return {"size": len(await request.body())}

        @self.app.post("/json")
        async def as_json(request: Request) -> Any:
            return await read_json(request)

        @self.app.post("/wait")
        async def wait() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise

        @self.app.get("/was-cancelled")
        async def was_cancelled() -> bool:
            await asyncio.wait_for(self.cancelled.wait(), 20)
            return True

        @self.app.get("/health")
        async def health() -> str:
            return "ok"

        small = {
            "max_body_bytes": 10_000,
            "max_buffered_bytes": 15_000,
            "body_timeout_seconds": 1.0,
        }
        settings = ServerSettings(**{**small, **limits})
        guarded(self.app, settings, self.metrics, headers={})


@pytest.fixture(scope="module")
def probe() -> Iterator[tuple[str, Probe]]:
    made = Probe()
    with listening(made.app) as url:
        yield url, made


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: localhost", *lines, "", ""]).encode()


def reply(connection: socket.socket) -> tuple[int, bytes]:
    """Status and everything up to the end of the connection, or of a JSON body."""
    data = b""
    while not data.endswith(b"}"):
        piece = connection.recv(65536)
        if not piece:
            break
        data += piece
    return int(data.split(b" ", 2)[1]), data


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(size // 100):
        yield b"x" * 100


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(10_000, 200), (10_100, 413), (300_000, 413)])
def test_a_body_is_counted_while_it_arrives(
    probe: Any, size: int, status: int, chunked: bool
) -> None:
    content: Any = chunks(size) if chunked else b"x" * size
    response = httpx.post(f"{probe[0]}/echo", content=content)
    assert response.status_code == status
    if status == 200:
        assert response.json() == {"size": size}
    else:
        assert response.json()["error"]["code"] == "body_too_large"


def test_a_client_that_asks_before_it_sends_need_not_send(probe: Any) -> None:
    with connected(probe[0]) as connection:
        connection.sendall(head("/echo", "content-length: 99999999", "expect: 100-continue"))
        status, _ = reply(connection)
    assert status == 413


def test_a_compressed_body_is_not_opened(probe: Any) -> None:
    response = httpx.post(
        f"{probe[0]}/echo", content=b"x" * 99, headers={"content-encoding": "gzip"}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_encoding")


def test_a_slow_body_is_given_up_and_holds_nobody_up(probe: Any) -> None:
    with connected(probe[0]) as slow:
        slow.sendall(head("/echo", "content-length: 5000") + b"x" * 10)
        assert httpx.get(f"{probe[0]}/health").status_code == 200
        status, data = reply(slow)
    assert status == 408 and b"body_timeout" in data


def test_bodies_of_all_requests_together_are_bounded_and_given_back(probe: Any) -> None:
    url, made = probe
    with connected(url) as first:
        first.sendall(head("/echo", "content-length: 9999") + b"x" * 9000)
        while "buffered_bytes 9000" not in made.metrics.render():
            pass
        refused = httpx.post(f"{url}/echo", content=b"x" * 9000)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        first.sendall(b"x" * 999)
        assert reply(first)[0] == 200
    assert httpx.post(f"{url}/echo", content=b"x" * 9000).status_code == 200
    while "buffered_bytes 0" not in made.metrics.render():
        pass


def test_large_bodies_that_arrive_together_are_taken_as_far_as_they_fit() -> None:
    made = Probe(max_body_bytes=5 * 10**6, max_buffered_bytes=10 * 10**6)
    size, num_clients, fitting = 4 * 10**6, 6, 2
    with listening(made.app) as url, ExitStack() as stack:
        clients = [stack.enter_context(connected(url)) for _ in range(num_clients)]
        for client in clients:
            client.sendall(head("/echo", f"content-length: {size}"))
        for _ in range(8):  # none is whole before all have begun
            for client in clients:
                client.sendall(b"x" * (size // 8))
        statuses = Counter(reply(client)[0] for client in clients)
        assert httpx.post(f"{url}/echo", content=b"x" * size).status_code == 200
    assert statuses == {200: fitting, 429: num_clients - fitting}


def test_work_for_a_client_that_has_left_is_cancelled(probe: Any) -> None:
    url, made = probe
    with connected(url) as connection:
        connection.sendall(head("/wait", "content-length: 2") + b"{}")
    assert httpx.get(f"{url}/was-cancelled", timeout=30).json() is True
    assert httpx.get(f"{url}/health").status_code == 200
    assert made.metrics.value("http_requests_total", route="/wait", method="POST", status="499")


def test_when_the_time_to_stop_is_over_clients_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """Whether their request is at work or not here yet."""
    made = Probe(body_timeout_seconds=30.0)
    config = uvicorn.Config(made.app, port=0, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    with connected(url) as working, connected(url) as arriving:
        working.sendall(head("/wait", "content-length: 2") + b"{}")
        arriving.sendall(head("/echo", "content-length: 3") + b"{}")
        while "buffered_bytes 4" not in made.metrics.render():
            pass
        server.should_exit = True
        assert [reply(each)[0] for each in (working, arriving)] == [503, 503]
    thread.join(30)
    assert not thread.is_alive()
    assert "Exception in ASGI" not in caplog.text and "Traceback" not in caplog.text


def test_a_refused_body_is_not_kept_while_the_rest_of_it_arrives(probe: Any) -> None:
    url, made = probe
    with connected(url) as client:
        client.sendall(head("/echo", "transfer-encoding: chunked") + chunk(9000))
        while "buffered_bytes 9000" not in made.metrics.render():
            pass
        for _ in range(10):
            client.sendall(chunk(2000))
            time.sleep(0.1)
        assert "buffered_bytes 0" in made.metrics.render()
        client.sendall(b"0\r\n\r\n")
        assert reply(client)[0] == 413


def chunk(size: int) -> bytes:
    return b"%x\r\n%s\r\n" % (size, b"x" * size)


def test_a_body_is_not_kept_once_it_is_read() -> None:
    made = Probe(max_body_bytes=10**7, max_buffered_bytes=10**7)

    @made.app.post("/held")
    async def held(request: Request) -> int:
        await read_json(request)
        await asyncio.sleep(0.2)  # until the thread that parsed has let go
        return tracemalloc.get_traced_memory()[0]

    body = json.dumps(["x" * (8 * 10**6)]).encode()
    with listening(made.app) as url:
        httpx.post(f"{url}/held", json=[])  # what a first request imports
        tracemalloc.start()
        response = httpx.post(
            f"{url}/held", content=body, headers={"content-type": "application/json"}
        )
        tracemalloc.stop()
    assert response.json() < 4 * 10**6


def test_json_needs_its_content_type(probe: Any) -> None:
    url = f"{probe[0]}/json"
    for kind, status in (
        ("application/json; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
    ):
        response = httpx.post(url, content=b"[1]", headers={"content-type": kind})
        assert response.status_code == status, kind
    deep = httpx.post(url, content=nested(21), headers={"content-type": "application/json"})
    assert (deep.status_code, deep.json()["error"]["code"]) == (400, "invalid_json")
