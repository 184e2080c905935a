"""Addresses are fetched only when allowed, only from public hosts, and within bounds.

Name look-up is faked and connections to public addresses are led to a server on the loopback, so
that the rule about public addresses itself stays in force. No request leaves the machine.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from mmembed.errors import InputError
from mmembed.inputs.fetch import fetch, is_public
from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.sandbox import MediaDecoder
from mmembed.inputs.sizing import MediaBudget
from mmembed.sources import Url
from mmembed.types import Image
from tests import media_files as files

PUBLIC = "93.184.215.14"
BODY = b"a body of bytes"
OPEN = MediaPolicy(allow_urls=True, allow_http=True, fetch_timeout_seconds=5.0)


class Server:
    """Answers every connection on the loopback with what `answer` writes; counts them."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self.requests: list[bytes] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.settimeout(10)
                    self.requests.append(connection.recv(65536))
                    self._answer(connection)
                except OSError:
                    pass  # the client has left, as it should

    def close(self) -> None:
        self.stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def internet(monkeypatch):
    """Start a server that every public address leads to; names resolve as `names` says."""
    servers: list[Server] = []
    names: dict[str, list[str]] = {}
    dialled: list[str] = []
    looked_up: list[str] = []
    answers_later: dict[str, list[str]] = {}
    connect = socket.socket.connect

    def look_up(host, port, *arguments, **options):
        looked_up.append(host)
        if host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        found = [
            (
                socket.AF_INET6 if ":" in ip else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (ip, port),
            )
            for ip in names[host]
        ]
        names.update(answers_later)
        return found

    def dial(self, address):
        dialled.append(address[0])
        if address[0] == PUBLIC:
            address = ("127.0.0.1", servers[0].port)
        return connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket.socket, "connect", dial)

    def start(answer: Callable[[socket.socket], None] | bytes) -> Server:
        write = answer if callable(answer) else lambda connection: connection.sendall(answer)
        servers.append(Server(write))
        names.update({"media.example": [PUBLIC]})
        return servers[-1]

    start.names = names
    start.dialled = dialled
    start.looked_up = looked_up
    start.answers_later = answers_later
    yield start
    for server in servers:
        server.close()


def reply(body: bytes = BODY, status: str = "200 OK", headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def error(address: str, policy: MediaPolicy = OPEN) -> InputError:
    with pytest.raises(InputError) as caught:
        fetch(Url(address), policy, "image")
    return caught.value


def test_fetching_is_off_unless_allowed(internet):
    server = internet(reply())
    for policy in [MediaPolicy(), MediaPolicy(isolate=False)]:
        with MediaDecoder(policy) as decoder, pytest.raises(InputError) as caught:
            decoder.decode(Image(Url("https://media.example/p.png")), MediaBudget(1, 1))
        assert caught.value.code == "forbidden_url" and "allow_urls" in caught.value.detail
    assert server.requests == [] and internet.dialled == []


def test_a_body_is_fetched_with_the_host_name_kept(internet, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = internet(reply())
    assert fetch(Url("http://media.example/a/b?c=d#e"), OPEN) == (BODY, "media.example")
    request = server.requests[0].decode()
    assert request.startswith("GET /a/b?c=d HTTP/1.1\r\n")
    assert "Host: media.example\r\n" in request and "Accept-Encoding: identity" in request
    assert internet.dialled == [PUBLIC]


def test_a_fetched_picture_is_decoded_and_named_by_its_host(internet):
    internet(reply(files.encode_image(files.photo())))
    with MediaDecoder(OPEN) as decoder:
        found = decoder.decode(Image(Url("http://media.example/p.png")), MediaBudget(3136, 12544))
    assert (found.frames[0] == files.photo()).all()


def test_a_fetched_text_is_no_picture(internet):
    internet(reply(b"<html>not found</html>"))
    with MediaDecoder(OPEN) as decoder, pytest.raises(InputError) as caught:
        decoder.decode(Image(Url("http://media.example/p.png")), MediaBudget(3136, 12544))
    assert (caught.value.code, caught.value.source) == ("unsupported_format", "media.example")


def test_chunked_bodies_and_bodies_of_unknown_length_are_read(internet):
    internet(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
    )
    assert fetch(Url("http://media.example/"), OPEN)[0] == b"abcdefg"


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://93.184.215.14/",
        "http://user@media.example/",
        "http://media.example@127.0.0.1/",
        "http://media.example\\@127.0.0.1/",
        "http://media.example\\.evil.example/",
        "http://media.example /",
        "http://media.example/\r\nX: y",
        "http://media.example/\0",
        "http://media.example./",
        "http://m\u00e9dia.example/",
        "http://media.example%2f@x/",
        "http://media.example:8080/",
        "http://media.example:99999/",
        "http://media.example:x/",
        "http://-media.example/",
        "http:///p.png",
        "http:media.example/",
        "//media.example/",
        "ftp://media.example/",
        "file:///etc/passwd",
        "gopher://media.example/",
        "hls+http://media.example/",
        "http://" + "a" * 5000,
    ],
)
def test_strange_addresses_are_refused_without_a_look_up(internet, address):
    server = internet(reply())
    assert error(address).code == "forbidden_url"
    assert server.requests == [] and internet.dialled == []


def test_only_https_unless_http_is_allowed(internet):
    server = internet(reply())
    policy = MediaPolicy(allow_urls=True)
    assert error("http://media.example/", policy).code == "forbidden_url"
    assert server.requests == []


def test_allowed_hosts_are_exact(internet):
    server = internet(reply())
    policy = MediaPolicy(allow_urls=True, allow_http=True, allowed_hosts=("Media.Example",))
    assert fetch(Url("http://MEDIA.example/"), policy)[0] == BODY
    for host in ["media.example.evil.example", "evil-media.example", "x.media.example"]:
        internet.names[host] = [PUBLIC]
        assert error(f"http://{host}/", policy).code == "forbidden_url"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.8"],
        ["169.254.169.254"],
        ["100.64.0.1"],
        ["192.168.1.1"],
        ["0.0.0.0"],
        ["224.0.0.1"],
        ["::1"],
        ["fe80::1"],
        ["fc00::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        [PUBLIC, "127.0.0.1"],
        [],
    ],
)
def test_a_host_with_one_inner_address_is_as_if_absent(internet, addresses):
    server = internet(reply())
    internet.names["inner.example"] = addresses
    inner, absent = error("http://inner.example/"), error("http://absent.example/")
    assert inner.code == absent.code == "fetch_failed" and inner.detail == absent.detail
    assert server.requests == [] and internet.dialled == []


def test_the_checked_address_is_dialled_whatever_a_second_look_up_says(internet):
    internet(reply())
    internet.answers_later["media.example"] = ["127.0.0.1"]
    assert fetch(Url("http://media.example/"), OPEN)[0] == BODY
    assert internet.dialled == [PUBLIC] and internet.looked_up == ["media.example"]


def test_redirects_are_off_by_default_and_each_is_checked_when_on(internet):
    target = ["http://media.example/next"]

    def answer(connection):
        if target:
            where = f"Location: {target.pop()}\r\n"
            connection.sendall(reply(b"", "302 Found", where))
        else:
            connection.sendall(reply())

    server = internet(answer)
    assert error("http://media.example/").code == "fetch_failed"
    following = MediaPolicy(allow_urls=True, allow_http=True, max_redirects=3)
    target[:] = ["/next"]
    assert fetch(Url("http://media.example/"), following)[0] == BODY
    for place in ["http://127.0.0.1/", "file:///etc/passwd", "http://u@media.example/"]:
        target[:] = [place]
        assert error("http://media.example/", following).code == "forbidden_url"
    internet.names["inner.example"] = ["10.0.0.1"]
    target[:] = ["http://inner.example/"]
    assert error("http://media.example/", following).code == "fetch_failed"
    target[:] = ["/again"] * 9
    server.requests.clear()
    assert error("http://media.example/", following).code == "fetch_failed"
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (reply(b"", "500 Oops"), "fetch_failed"),
        (reply(b"", "204 No Content"), "fetch_failed"),
        (reply(b""), "empty"),
        (reply(headers="Content-Encoding: gzip\r\n"), "fetch_failed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort", "fetch_failed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "too_large"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "fetch_failed"),
        (b"nonsense\r\n\r\n", "fetch_failed"),
        (b"", "fetch_failed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 99999 + b"\r\n\r\n", "fetch_failed"),
    ],
)
def test_bad_answers_are_errors_of_the_item(internet, answer, code):
    internet(answer)
    found = error("http://media.example/")
    assert (found.code, found.source, found.part) == (code, "media.example", "image")


def test_an_endless_body_is_cut_off(internet):
    def endless(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    internet(endless)
    policy = MediaPolicy(allow_urls=True, allow_http=True, max_fetch_bytes=1_000_000)
    assert error("http://media.example/", policy).code == "too_large"


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_host_that_drips_meets_the_clock_of_the_whole_fetch(internet, head):
    server = None

    def drip(connection):
        connection.sendall(head)
        while not server.stopped.wait(0.05):
            connection.sendall(b"x")

    server = internet(drip)
    policy = MediaPolicy(allow_urls=True, allow_http=True, fetch_timeout_seconds=0.5)
    assert error("http://media.example/", policy).code == "fetch_timeout"


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111"])
def test_public_addresses_are_public(address):
    assert is_public(address) and not is_public("nonsense")
