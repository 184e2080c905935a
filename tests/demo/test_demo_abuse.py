"""What a hostile visitor, or a hostile page in the visitor's browser, may try."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import zlib

import pytest

from mmembed.demo.app import create_demo
from mmembed.demo.library import Library
from mmembed.demo.settings import DemoSettings
from mmembed.inputs.sandbox import MediaDecoder
from tests import media_files
from tests.demo.browsing import served
from tests.demo.library import error, hit, hits

KEY = "a-key-of-twenty-letters"
PICTURE = media_files.encode_image(media_files.photo())
CLIMBS = (
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%252e%252e%252fetc%252fpasswd",
    "..\\..\\etc\\passwd",
    "..%5c..%5cetc%5cpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "a%00b",
    "%ff%fe",
    "\u2025/\u2025/etc/passwd",
    "a" * 5000,
)


@pytest.mark.parametrize("climb", CLIMBS)
def test_no_name_or_number_leads_to_a_file(client, climb):
    name = hit(client, "red.png")["id"]
    for path in (
        f"/static/{climb}",
        f"/api/rows/{climb}",
        f"/api/rows/{climb}/page",
        f"/api/rows/{name}/page?number={climb}",
        f"/api/rows/{name}/boxes?number={climb}",
        f"/api/thumbnails/{climb}",
        f"/api/thumbnails/{name}?width={climb}",
        f"/api/media/{climb}",
        f"/api/uploads/{climb}/thumbnail",
    ):
        answer = client.get(path)
        assert answer.status_code in (404, 422), path
        assert "root:" not in answer.text
    for field in ("like", "folder", "space"):
        answer = client.post("/api/search", json={"text": "a cat", field: climb})
        assert answer.status_code in (404, 422) and "root:" not in answer.text
    answer = client.post("/api/search", json={"uploads": [climb]})
    assert answer.status_code in (404, 422)


@pytest.mark.parametrize(
    "address",
    ["http://169.254.169.254/latest", "file:///etc/passwd", "data:text/html,x", "//127.0.0.1:1/"],
)
def test_nothing_in_a_request_is_fetched(client, address, monkeypatch):
    def refuse(*arguments: object, **_: object) -> None:
        raise AssertionError(f"a connection to {arguments}")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert hits(client, text=address), "an address is only words"
    for request in (
        {"uploads": [address]},
        {"uploads": [{"id": address}]},
        {"like": address},
        {"image": address},
        {"url": address},
        {"uploads": [{"url": address}]},
        {"row": address},
    ):
        for path in ("/api/search", "/api/explain"):
            assert client.post(path, json=request).status_code in (404, 422)
    answer = client.post("/api/uploads", params={"name": address}, content=address.encode())
    assert error(answer, 415) == "unsupported_format"


@pytest.mark.parametrize(
    "data",
    [
        b"<!doctype html><script>alert(1)</script>",
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><svg>&e;</svg>",
        b"#!/bin/sh\nid\n",
        b"import os\n",
        b"PK\x03\x04" + bytes(100),
        b"\x1f\x8b\x08" + zlib.compress(bytes(1_000_000)),
    ],
)
def test_what_a_browser_could_run_is_not_taken(client, data):
    for name in ("x.png", "x.html", "x.svg"):
        answer = client.post("/api/uploads", params={"name": name}, content=data)
        assert error(answer, 415) == "unsupported_format"


def test_what_is_taken_comes_back_as_a_picture_only(client):
    """A file that is a picture and a page at once (a polyglot) loses the page."""
    page = b"<script>alert(1)</script>"
    taken = client.post("/api/uploads", params={"name": "x.html"}, content=PICTURE + page).json()
    answer = client.get(taken["thumbnail"])
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert page not in answer.content


def bombs() -> dict[str, bytes]:
    return {
        "wide": media_files.png_header_only(100_000, 100_000),
        "tall": media_files.png_header_only(1, 2**31 - 1),
        "pages": b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[2 0 R]/Count 999999999>>endobj\n"
        b"trailer<</Root 1 0 R>>",
        "film": b"\x00\x00\x00\x18ftypmp42" + b"\xff" * 500,
        "webm": b"\x1aE\xdf\xa3" + b"\xff" * 500,
    }


@pytest.mark.parametrize("kind", ["wide", "tall", "pages", "film", "webm"])
def test_a_bomb_is_told_and_the_demo_goes_on(client, kind):
    started = time.perf_counter()
    answer = client.post("/api/uploads", params={"name": "bomb"}, content=bombs()[kind])
    code = error(answer, 400)
    assert code not in ("internal_error", "empty")
    assert "/tmp" not in answer.text and "mmembed-demo-" not in answer.text
    assert time.perf_counter() - started < 20
    assert hits(client, text="a cat")


@pytest.mark.parametrize(
    "name",
    ["<img src=x onerror=alert(1)>", "a\r\nset-cookie: x=1", "\u202egnp.exe", "x" * 1000, "", ".",
     "..", "/", "C:\\x", "\x00", "\ud83d"],
)  # fmt: skip
def test_a_name_of_a_file_is_only_text(client, name):
    shown = name.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    answer = client.post("/api/uploads", params={"name": shown}, content=PICTURE)
    assert answer.status_code == 200 and "set-cookie" not in answer.headers
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()["name"]
    assert found and found.isprintable() and "/" not in found


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"text": "a", "text": "b"}',
        b'{"text": "a", "k": 1e999}',
        b'{"text": "a", "k": 99999999999999999999999}',
        b'{"text": "a", "k": true}',
        b'{"text": "a", "pages": [NaN, 1]}',
        b'{"text": "a", "uploads": {"__proto__": 1}}',
        b"[" * 100_000,
        b'{"text": ' + b"[" * 15 + b"]" * 15 + b"}",
        b"\xff\xfe{}",
        b'{"text": "a", "suffixes": [' + b'"a",' * 200 + b'"a"]}',
    ],
)
def test_odd_json_is_refused_in_one_form(client, body):
    for path in ("/api/search", "/api/explain"):
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        assert error(answer, answer.status_code) and answer.status_code in (400, 422)


@pytest.mark.parametrize(
    "text",
    ["<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>", "\x00", "\u0300" * 9000],
)
@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
def test_words_that_mean_something_to_the_model_are_words(client, text, mode):
    for uploads in ([], [client.post("/api/uploads", content=PICTURE).json()["id"]]):
        request = {"text": text, "mode": mode, "uploads": uploads}
        assert client.post("/api/search", json=request).status_code in (200, 400)
        assert client.post("/api/explain", json=request).status_code in (200, 400)


def test_ranges_of_a_film_cost_no_more_than_the_film(client, files):
    size = (files / "clip.mp4").stat().st_size
    url = hit(client, "clip.mp4")["media"]
    for ranges in (
        ",".join(f"{n}-{n}" for n in range(0, 6000, 2)),
        ",".join(["0-"] * 5000),
        "-" + "9" * 5000,
        "9" * 5000 + "-",
        "5-1",
        "a-b",
        "--1",
        "",
        ",,,,",
    ):
        started = time.perf_counter()
        answer = client.get(url, headers={"range": f"bytes={ranges}"})
        assert answer.status_code in (200, 206, 400, 416), ranges[:20]
        assert len(answer.content) < 2 * size + 500_000
        assert time.perf_counter() - started < 5


def test_the_host_header_cannot_pretend_another_path(open_demo, index):
    """With a key any name is a host, and the rest of the header must not be read as an address."""
    with open_demo(index, server={"api_keys": (KEY,)}) as client:
        headers = {"host": "x/?", "sec-fetch-site": "cross-site"}
        answer = client.get("/api/info", params={"key": KEY}, headers=headers)
        assert error(answer, 403) == "forbidden_origin"
        for host in ("[", "x/?", "a b", "x:99999999", "\\"):
            assert error(client.get("/api/info", headers={"host": host}), 401)


def test_uploads_that_take_long_to_open_hold_up_no_search(open_demo, index, monkeypatch):
    go_on = threading.Event()
    decode = MediaDecoder.decode

    def slow(self, media, *arguments, **options):
        if "mmembed-demo-" in str(getattr(media, "source", "")):
            go_on.wait(60)
        return decode(self, media, *arguments, **options)

    with open_demo(index) as client:
        monkeypatch.setattr(MediaDecoder, "decode", slow)
        senders = [
            threading.Thread(
                target=client.post, args=("/api/uploads",), kwargs={"content": PICTURE}
            )
            for _ in range(60)
        ]
        for sender in senders:
            sender.start()
        try:
            time.sleep(0.5)
            started = time.perf_counter()
            assert hits(client, text="a cat")
            assert time.perf_counter() - started < 10
        finally:
            go_on.set()
            for sender in senders:
                sender.join()


def test_a_visitor_who_leaves_leaves_no_trace_in_the_log(embedder, index, caplog):
    settings = DemoSettings(decode_workers=1)
    app = create_demo(Library([("model", embedder, index)], settings=settings), settings)
    bodies = [
        ("/api/search", json.dumps({"text": "a cat", "mode": mode}).encode())
        for mode in ("vector", "text", "hybrid")
    ]
    bodies += [("/api/explain", bodies[0][1]), ("/api/uploads", PICTURE)]
    with caplog.at_level(logging.WARNING), served(app) as address:
        host = address.removeprefix("http://").rstrip("/")
        name, _, port = host.partition(":")
        for number in range(25):
            path, body = bodies[number % len(bodies)]
            head = (
                f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\n\r\n"
            ).encode()
            with socket.create_connection((name, int(port))) as connection:
                connection.sendall(head + body[: len(body) // (1 + number % 2)])
                time.sleep(0.002 * (number // 5))
        time.sleep(0.5)
    assert not caplog.records, caplog.text
