"""No spelling of an inner address makes the server call it, with URLs off or with a host allowed.

Names are looked up in a table, and what is public leads to a server on the loopback that counts:
see `tests/inputs/test_fetch.py`. The forbidden server counts too, and is never called.
"""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import media_files as files
from tests.server.door import opened
from tests.server.payloads import addresses
from tests.server.victim import judge_text

PUBLIC, MOVED = "93.184.215.14", "93.184.215.15"
ROUTES: dict[str, int] = {}  # where a public address leads to
NAMES = {
    "media.example": [PUBLIC],
    "inner.example": ["127.0.0.1"],
    "mixed.example": [PUBLIC, "127.0.0.1"],
    "media.example.inner.example": ["127.0.0.1"],
    "moved.example": [MOVED],
    "localhost": ["127.0.0.1"],
}


class Counting:
    """A web server that answers everything with the same bytes, and counts."""

    def __init__(self, answer: bytes) -> None:
        self.hits = 0
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.hits += 1
                connection.settimeout(5)
                try:
                    connection.recv(65_536)
                    connection.sendall(self._answer)
                except OSError:
                    continue

    def close(self) -> None:
        self._listener.close()


def picture() -> bytes:
    body = files.encode_image(files.photo())
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.fixture(scope="module")
def forbidden() -> Iterator[Counting]:
    server = Counting(picture())
    yield server
    server.close()


@pytest.fixture(scope="module")
def allowed() -> Iterator[Counting]:
    server = Counting(picture())
    yield server
    server.close()


@pytest.fixture(scope="module")
def internet(allowed: Counting) -> Iterator[list[str]]:
    """What was dialled; `PUBLIC` leads to `allowed`, everything else where it says."""
    dialled: list[str] = []
    ROUTES[PUBLIC] = allowed.port
    connect = socket.socket.connect
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host == "127.0.0.1":
            return real(host, port, *arguments, **options)
        if host not in NAMES:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in NAMES[host]]

    def dial(self: socket.socket, address: Any) -> None:
        dialled.append(str(address[0]))
        if address[0] in ROUTES:
            address = ("127.0.0.1", ROUTES[address[0]])
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        patch.setattr(socket.socket, "connect", dial)
        yield dialled


@pytest.fixture(scope="module", params=["off", "one host", "one host, https"])
def url(request: Any, internet: list[str], tiny_checkpoint: Path) -> Iterator[str]:
    settings: dict[str, Any] = {}
    if request.param != "off":
        settings = {"allowed_hosts": ("media.example",), "allow_http": "https" not in request.param}
    with opened(tiny_checkpoint, None, **settings) as found:
        yield found


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as found:
        yield found


def bodies(address: str) -> list[tuple[str, dict[str, Any]]]:
    image = {"type": "image_url", "image_url": {"url": address}}
    video = {"type": "video_url", "video_url": {"url": address}}
    return [
        ("/v1/embeddings", {"input": [{"image": address}]}),
        ("/v1/embeddings", {"input": [{"video": [address, address]}]}),
        ("/v1/embeddings", {"input": [{"pdf": address}]}),
        ("/v1/embeddings", {"messages": [{"role": "user", "content": [image, video]}]}),
        ("/v2/embed", {"input_type": "image", "images": [address]}),
        ("/v1/multimodalembeddings", {"inputs": [{"content": [image]}]}),
    ]


def test_a_forbidden_server_is_never_called(url, client, forbidden, internet):
    for address in addresses(forbidden.port):
        for path, body in bodies(address):
            answer = client.post(url + path, json=body)
            if answer.status_code == 200:  # the one address that is allowed, for another server
                assert address.startswith(("http://media.example:", "http://media.example#"))
                continue
            assert 400 <= answer.status_code < 500, answer.text
            judge_text(answer.text)
            assert "127.0.0.1" not in answer.text or "127.0.0.1" in address
    assert forbidden.hits == 0
    asked = int(url.rpartition(":")[2])
    assert asked != forbidden.port and set(internet) <= {"127.0.0.1", PUBLIC, MOVED}


def test_a_text_that_is_an_address_is_never_fetched(url, client, forbidden, allowed):
    before = allowed.hits
    for address in [*addresses(forbidden.port), "http://media.example/p.png"]:
        answer = client.post(url + "/v1/embeddings", json={"input": [address]})
        assert answer.status_code in (200, 400)
    assert (forbidden.hits, allowed.hits) == (0, before)


def test_an_allowed_host_is_fetched_where_it_may_be(url, allowed, request):
    before = allowed.hits
    is_open = "[one host]" in request.node.name
    for path, body in bodies("http://media.example/p.png")[:1]:
        answer = httpx.post(url + path, json=body)
        assert answer.status_code == (200 if is_open else 400)
        assert allowed.hits == before + is_open
        if is_open:
            data = base64.b64encode(files.encode_image(files.photo())).decode()
            same = httpx.post(url + path, json={"input": [{"image": f"data:;base64,{data}"}]})
            assert answer.json()["data"] == same.json()["data"]


def test_a_redirect_to_an_inner_address_is_not_followed(internet, forbidden, tiny_checkpoint):
    target = f"http://127.0.0.1:{forbidden.port}/p.png".encode()
    moved = b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % target
    redirecting = Counting(moved)
    ROUTES[MOVED] = redirecting.port
    with opened(tiny_checkpoint, None, allowed_hosts=("moved.example",), allow_http=True) as url:
        body = {"input": [{"image": "http://moved.example/p.png"}]}
        answer = httpx.post(url + "/v1/embeddings", json=body)
    redirecting.close()
    assert answer.status_code == 400 and redirecting.hits == 1
    assert forbidden.hits == 0
