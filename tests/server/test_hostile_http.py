"""Requests that no client sends by accident: broken HTTP, bodies without end, JSON that is none."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import socket
import struct
from typing import Any

import pytest

from tests.server import bodies
from tests.server.victim import Victim

pytestmark = pytest.mark.usefixtures("survives")

PATHS = [
    "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/static/../../etc/passwd",
    "/v1/models/..%2f..%2f..%2fetc%2fpasswd", "//etc/passwd", "/v1/embeddings/../../../etc/passwd",
    "/..%5c..%5cetc/passwd", "/%00", "/.git/config", "/docs", "/redoc", "/openapi.json/..",
    "/" + "a" * 8000, "/v1/embeddings?x=../../etc/passwd", "/info/%2e%2e/%2e%2e/etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_route_is_a_file(victim, path):
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        answer = victim.raw(head.encode("latin-1"))
        assert b"root:" not in answer
        assert 400 <= int(answer.split()[1]) < 500


def head(path: str = "/v1/embeddings", **headers: str) -> bytes:
    fields = {"Host": "localhost", "Content-Type": "application/json", **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([f"POST {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def test_a_large_body_is_refused_before_and_while_it_arrives(victim):
    assert status(victim.raw(head(Content_Length=str(10**12)), b"x" * 1000)) == 413
    endless = [b"10000\r\n" + b"x" * 65_536 + b"\r\n"] * 64
    assert status(victim.raw(head(Transfer_Encoding="chunked"), *endless)) == 413


def test_a_compressed_body_is_not_unpacked(victim):
    body = gzip.compress(b" " * 30_000_000)
    for name in ("gzip", "deflate", "br", "zstd", "gzip, gzip", "GZIP"):
        headers = {"content-type": "application/json", "content-encoding": name}
        assert victim.send("/v1/embeddings", body, headers).status_code == 415


@pytest.mark.parametrize(
    "pieces",
    [
        (head(Content_Length="-1"),),
        (head(Content_Length="9" * 400),),
        (head(Content_Length="5, 6"), b"{}   "),
        (head(Content_Length="5", Transfer_Encoding="chunked"), b"0\r\n\r\n"),
        (head(Transfer_Encoding="chunked"), b"ffffffffffffffffff\r\n", b"x" * 100),
        (head(Transfer_Encoding="chunked"), b"zz\r\n"),
        (head(Transfer_Encoding="gzip"), b"zz\r\n"),
        (head(Transfer_Encoding="chunked"), b"1" + b";x" * 40_000 + b"\r\n"),
        (head(X="y" * 40_000),),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",),
        (b"GET " + b"/" * 40_000 + b" HTTP/1.1\r\n\r\n",),
        (b"GET / HTTP/9.9\r\n\r\n",),
        (b"GET /\r\n\r\n",),
        (b"\0" * 2000 + b"\r\n\r\n",),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",),
        (b"GET / HTTP/1.1\r\nHost: lo calhost\r\n\r\n",),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: x\r\n\r\n",),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",),
        (b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",),
    ],
    ids=lambda pieces: repr(pieces[0][:40] + pieces[-1][:20]),
)
def test_a_broken_request_gets_a_refusal_or_the_end_of_the_connection(victim, pieces):
    answer = victim.raw(*pieces)
    assert answer == b"" or 400 <= status(answer) < 500


def test_two_requests_in_one_packet_get_two_answers(victim):
    one = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert victim.raw(one * 50 + last, until_closed=True).count(b'{"status":"ok"}') == 51


JSON = {
    "deep list": b"[" * 100_000,
    "deep closed list": b"[" * 50_000 + b"]" * 50_000,
    "deep object": b'{"input":' * 50_000 + b"1" + b"}" * 50_000,
    "depth in a string": b'{"input": "' + b"[" * 1000 + b'\\"]"',
    "many values": b'{"input":[' + b"0," * 600_000 + b"0]}",
    "a key twice": b'{"input": "a", "input": "b"}',
    "a key twice inside": b'{"input": [{"text": "a", "text": "b"}]}',
    "NaN": b'{"input": "a", "dimensions": NaN}',
    "Infinity": b'{"input": "a", "dimensions": -Infinity}',
    "1e999": b'{"input": "a", "dimensions": 1e999}',
    "huge int": b'{"input": "a", "dimensions": ' + b"9" * 100_000 + b"}",
    "int of 2^63": b'{"input": [9223372036854775808]}',
    "ids": b'{"input": [[1, 2, -5]]}',
    "many ids": b'{"input": [' + b"1," * 5000 + b"1]}",
    "not UTF-8": b'{"input": "\xff\xfe"}',
    "UTF-16": '{"input": "a"}'.encode("utf-16"),
    "BOM": b'\xef\xbb\xbf{"input": "a"}',
    "empty": b"",
    "null": b"null",
    "number": b"1",
    "string": b'"input"',
    "two values": b'{"input": "a"} {"input": "b"}',
    "comment": b'{"input": "a" /* x */}',
    "quote": b'{"input": "a',
    "escape": b'{"input": "\\',
    "half escape": b'{"input": "\\u12',
    "unknown field": b'{"input": "a", "__class__": "x"}',
    "long field": b'{"input": "a", "' + b"x" * 1_000_000 + b'": 1}',
    "false model": b'{"input": "a", "model": "' + b"x" * 1_000_000 + b'"}',
}


@pytest.mark.parametrize("body", JSON.values(), ids=JSON)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v2/embed", "/v1/rerank"])
def test_json_that_is_none_or_too_much_is_refused(victim, path, body):
    answer = victim.send(path, body, {"content-type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert len(answer.content) < 5000


@pytest.mark.parametrize("text", ["\ud800", "a\udfff b", "\0", "\u202e\ufeff", "x" * 1_900_000])
def test_a_strange_text_is_embedded_or_refused(victim, text):
    for field in ("input", "instruction", "model", "user"):
        body = {"input": "a", field: text}
        assert victim.post("/v1/embeddings", body).status_code in (200, 400, 404, 413)


def test_only_json_is_json(victim):
    for kind in ("text/plain", "multipart/form-data; boundary=x", "", "application/xml"):
        answer = victim.send("/v1/embeddings", '{"input": "a"}', {"content-type": kind})
        assert answer.status_code == 415


def test_connections_that_send_nothing_or_drip_are_closed_and_others_are_served(victim):
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", victim.port), 30))
            for _ in range(100)
        ]
        for number, connection in enumerate(slow):
            connection.sendall((b"", b"POST /v1/emb", head(Content_Length="99") + b"{")[number % 3])
        for _ in range(20):
            assert victim.client.get("/health").status_code == 200
        answers = []
        for connection in slow:
            with contextlib.suppress(ConnectionResetError):
                answers.append(connection.recv(65_536))
        assert {status(answer) for answer in answers if answer} == {408}


def test_more_connections_than_allowed_are_told_so(victim):
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", victim.port), 30)
            )
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = connection.recv(65_536)
            assert status(answer) in (200, 503)
        assert status(answer) == 503


def test_a_client_that_leaves_takes_its_work_along(victim):
    body = json.dumps({"input": ["a red apple " * 400] * 16}).encode()
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", victim.port), 30) as connection:
            connection.sendall(head(Content_Length=str(len(body))) + body)
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def mutated(body: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, lost, doubled or swapped for what parsers trip over."""
    data = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 1, 2, 20)))
        kind = chance.randrange(4)
        if kind == 0:
            data[at:end] = bytes([chance.randrange(256)])
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = data[at:end] * chance.choice((1, 50))
        else:
            data[at:end] = chance.choice(_WORDS)
    return bytes(data)


_WORDS = [
    b"null", b"true", b"-1", b"0", b"1e400", b"NaN", b"{}", b"[]", b"[[[[", b"}}", b'"', b"\\",
    b"\\u0000", b"\\ud800", b"\xff", b"\0", b"9" * 30, b'"../../etc/passwd"', b'"file:///"',
    b'"http://127.0.0.1/"', b'{"image":1}', b'{"text":""}', b',"input":"x"', b"0.1", b"-0",
]  # fmt: skip


def attack(victim: Victim, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    cases: list[Any] = [bodies.load(name) for name in bodies.recorded()]
    for _ in range(rounds):
        case = chance.choice(cases)
        path = case["path"] if chance.random() < 0.9 else chance.choice(cases)["path"]
        content = mutated(json.dumps(case["body"]).encode(), chance)
        answer = victim.send(path, content, {"content-type": "application/json"})
        assert answer.status_code in {200, 400, 404, 413, 415, 429}


def test_mutated_requests_never_make_the_server_fail(victim):
    attack(victim, 300, seed=1)


@pytest.mark.slow
def test_thousands_of_mutated_requests_never_make_the_server_fail(victim):
    for seed in range(2, 12):
        attack(victim, 2000, seed)
        victim.check()
