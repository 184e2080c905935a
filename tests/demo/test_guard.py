"""Who gets in, from where, and what a browser is told."""

from __future__ import annotations

import pytest

from mmembed.demo.app import STATIC
from tests.demo.library import ADDRESS, error

KEY = "a-key-of-twenty-letters"
PATHS = ("/", "/static/style.css", "/api/info", "/api/nothing", "/nothing")


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_has_the_headers_that_keep_a_page_safe(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-request-id"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:7860", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1", 200),
        ("[::1]:7860", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:7860", 403),
        ("192.168.0.5", 403),
        ("localhost:7860@evil.example", 403),
        ("localhost:x", 403),
        ("", 403),
    ],
)
def test_only_names_of_this_computer_reach_the_demo(client, host, status):
    for path in ("/api/info", "/"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == status
        if status == 403:
            assert error(answer, 403) == "forbidden_host"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:7860"},  # another name than the request's own
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_another_page_cannot_act(client, headers):
    for method, path in (
        ("POST", "/api/search"),
        ("POST", "/api/explain"),
        ("POST", "/api/uploads"),
        ("DELETE", "/api/uploads/x"),
    ):
        answer = client.request(method, path, headers=headers, content=b"{}")
        assert error(answer, 403) == "forbidden_origin"


def test_another_page_may_link_to_the_demo_and_not_read_it(client):
    foreign = {"sec-fetch-site": "cross-site"}
    assert client.get("/", headers=foreign).status_code == 200
    assert error(client.get("/api/info", headers=foreign), 403) == "forbidden_origin"


def test_our_own_page_acts(client):
    headers = {"origin": ADDRESS, "sec-fetch-site": "same-origin"}
    answer = client.post("/api/search", json={"text": "a cat"}, headers=headers)
    assert answer.status_code == 200


def test_with_a_key_every_route_asks_for_it(open_demo, index):
    server = {"host": "0.0.0.0", "api_keys": (KEY, "another-key-of-many-letters")}
    with open_demo(index, server=server) as client:
        for path in PATHS:
            assert error(client.get(path), 401) == "invalid_api_key"
            wrong = {"authorization": "Bearer wrong"}
            assert client.get(path, headers=wrong).status_code == 401
        for method, path in (("POST", "/api/search"), ("POST", "/api/uploads")):
            assert client.request(method, path).status_code == 401
        given = {"authorization": f"Bearer {KEY}"}
        assert client.get("/api/info", headers=given).status_code == 200
        # any name will do: under another one a browser has no cookie of ours
        assert client.get("/api/info", headers={**given, "host": "photos.lan"}).status_code == 200
        assert client.get("/api/info", params={"key": KEY}).status_code == 401


def test_the_address_with_the_key_opens_the_page_once_and_for_all(open_demo, index):
    with open_demo(index, server={"host": "0.0.0.0", "api_keys": (KEY,)}) as client:
        assert client.get("/", params={"key": "wrong"}).status_code == 401
        answer = client.get("/", params={"key": KEY}, follow_redirects=False)
        assert answer.status_code == 303 and answer.headers["location"] == "/"
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert client.get("/api/info").status_code == 200  # the client keeps the cookie
        assert client.get("/").status_code == 200


def test_without_a_key_on_a_network_addresses_lead_in_and_names_do_not(open_demo, index):
    with open_demo(index, server={"host": "0.0.0.0", "no_auth": True}) as client:
        assert client.get("/api/info", headers={"host": "192.168.0.5:80"}).status_code == 200
        assert client.get("/api/info", headers={"host": "[fe80::1]"}).status_code == 200
        assert client.get("/api/info", headers={"host": "evil.example"}).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/..%5capp.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/style.css/",
        "/static/style.css%00.js",
        "/api/media/..%2f..%2fetc%2fpasswd",
        "/api/thumbnails/%2fetc%2fpasswd",
        "/api/rows/../../etc/passwd",
        "/api/uploads/..%2fx/thumbnail",
    ],
)
def test_no_path_of_a_request_reaches_the_disk(client, path):
    answer = client.get(path)
    assert answer.status_code in (404, 422)
    assert "root:" not in answer.text and "import" not in answer.text


def test_every_file_of_the_page_is_served_with_its_type(client):
    types = {".js": "text/javascript", ".css": "text/css", ".html": "text/html",
             ".svg": "image/svg+xml"}  # fmt: skip
    names = [path.name for path in STATIC.iterdir()]
    assert "index.html" in names
    for name in names:
        answer = client.get(f"/static/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(types["." + name.rpartition(".")[2]])
        assert answer.headers["cache-control"] == "no-cache"
        again = client.get(f"/static/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code in (200, 304)


def test_a_fault_of_ours_says_nothing_but_the_request(open_demo, own_index, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise OSError("/home/ada/secret is on fire at 0x7f0011223344")

    with open_demo(own_index) as client:
        monkeypatch.setattr(own_index, "search", broken)
        answer = client.post("/api/search", json={"text": "a cat"})
        assert error(answer, 500) == "internal_error"
        assert "secret" not in answer.text and "0x7f" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_other_methods_are_refused(client):
    assert error(client.put("/api/info"), 405) == "method_not_allowed"
    assert error(client.get("/api/search"), 405) == "method_not_allowed"
    assert error(client.get("/api/nothing"), 404) == "not_found"
