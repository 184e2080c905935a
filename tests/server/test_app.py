"""Access, errors, and what operators see: on a real server in front of tiny models."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from mmembed.errors import ConfigError
from mmembed.server.settings import ServerSettings, read_api_keys
from tests.server.door import opened

KEYS = ("a-key-of-enough-letters", "another-key-for-rotation")
OLD = "a-key-that-was-valid-once"
TEXT = "a secret text that no log may show"
BODY = {"input": [TEXT]}


@pytest.fixture(scope="module")
def locked(tiny_checkpoint: Path, tiny_reranker: Path) -> Iterator[str]:
    """The address of a server with keys."""
    with opened(tiny_checkpoint, tiny_reranker, api_keys=KEYS, max_items=3) as url:
        yield url


@pytest.fixture(scope="module")
def client(locked: str) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {KEYS[1]}"}
    with httpx.Client(base_url=locked, headers=headers, timeout=60) as client:
        yield client


def refusal(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "code", "param", "index", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    return error


def test_every_route_but_health_wants_a_key(locked: str, client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/health", "/ready", "/metrics", "/info", "/v1/models", "/v1/embeddings"} <= set(paths)
    keyless: list[dict[str, str]] = [
        {},
        {"authorization": f"Bearer {OLD}"},
        {"authorization": "Bearer"},
        {"authorization": f"Basic {KEYS[0]}"},
        {"authorization": KEYS[0]},
        {"x-api-key": KEYS[0][:-1]},
        {"x-api-key": KEYS[0] + "x"},
        {"x-api-key": ""},
        {"x-api-key": "\N{KELVIN SIGN}ey".encode().decode("latin-1")},
    ]
    for path, methods in [*paths.items(), ("/openapi.json", ["get"]), ("/none", ["get"])]:
        for method in methods:
            for headers in keyless:
                response = httpx.request(
                    method,
                    locked + path,
                    headers={k: v.encode("latin-1") for k, v in headers.items()},  # type: ignore[misc]
                )
                if path == "/health":
                    assert response.status_code == 200
                    continue
                assert response.status_code == 401, path
                assert refusal(response)["code"] == "invalid_api_key"
                assert response.headers["www-authenticate"] == "Bearer"
                assert "x-embedding-space" not in response.headers


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens_in_either_header(locked: str, key: str) -> None:
    for headers in ({"authorization": f"bearer {key}"}, {"x-api-key": key}):
        assert httpx.get(f"{locked}/ready", headers=headers).status_code == 200


def test_a_body_without_a_key_is_not_read(locked: str) -> None:
    response = httpx.post(f"{locked}/v1/embeddings", content=b"x" * 100_000)
    assert response.status_code == 401


def test_without_a_key_only_this_machine_may_ask(tiny_checkpoint: Path) -> None:
    with opened(tiny_checkpoint, None) as url:
        port = url.rpartition(":")[2]
        for headers, status in (
            ({}, 200),
            ({"host": f"localhost:{port}"}, 200),
            ({"host": "LOCALHOST"}, 200),
            ({"host": f"localhost:{port}", "origin": f"http://localhost:{port}"}, 200),
            ({"host": f"rebound.example:{port}"}, 403),
            ({"host": "localhost.evil.example"}, 403),
            ({"origin": "https://evil.example"}, 403),
            ({"origin": "null"}, 403),
        ):
            assert httpx.get(f"{url}/info", headers=headers).status_code == status, headers


def test_an_answer_names_its_space_and_its_request(client: httpx.Client, locked: str) -> None:
    response = client.post("/v1/embeddings", json=BODY, headers={"x-request-id": "mine-1.2_3"})
    info = client.get("/info").json()
    assert response.status_code == 200
    assert response.headers["x-embedding-space"] == info["model"]["space"]
    assert response.headers["x-request-id"] == "mine-1.2_3"
    for bad in ("a b", "x" * 65, '"', "<b>"):
        response = client.get("/ready", headers={"x-request-id": bad})
        assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


def test_info_tells_every_limit_and_no_key(client: httpx.Client) -> None:
    response = client.get("/info")
    info = response.json()
    assert info["limits"]["max_items"] == 3
    assert info["limits"]["request_timeout_seconds"] == 120
    assert info["decoding"]["page_timeout_seconds"] == 10 and info["decoding"]["processes"] == 1
    assert info["model"]["dimension"] > 0 and info["reranker"]["fingerprint"]
    assert not any(key in response.text for key in KEYS)
    assert "/" not in json.dumps(info)  # no path of this machine
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names == [info["model"]["id"], info["reranker"]["id"]]


def test_there_is_no_page_that_loads_scripts(client: httpx.Client) -> None:
    for path in ("/docs", "/redoc", "/"):
        response = client.get(path)
        assert (response.status_code, refusal(response)["code"]) == (404, "no_such_route")
    assert refusal(client.put("/v1/embeddings"))["code"] == "method_not_allowed"


def test_bad_requests_are_told_in_one_form(client: httpx.Client) -> None:
    json_type = {"content-type": "application/json"}
    for content, status, code in (
        (b"{", 400, "invalid_json"),
        (b'{"input": ["a"], "input": ["b"]}', 400, "invalid_json"),
        (json.dumps({"input": ["a"] * 4}).encode(), 400, "too_many_items"),
    ):
        response = client.post("/v1/embeddings", content=content, headers=json_type)
        assert (response.status_code, refusal(response)["code"]) == (status, code)


def test_an_unforeseen_error_says_nothing_but_its_request_id(
    tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from mmembed import Embedder
    from mmembed.server.app import create_app
    from mmembed.server.engine import EncodeEngine
    from tests.server.door import listening

    settings = ServerSettings()
    with Embedder.from_pretrained(tiny_checkpoint, media=settings.media_policy()) as embedder:
        app = create_app(EncodeEngine(embedder, settings), settings)

        @app.get("/broken")
        async def broken() -> None:
            raise ValueError("/home/somebody/secret at 0x7f0123456789")

        with listening(app) as url:
            response = httpx.get(f"{url}/broken")
            assert httpx.get(f"{url}/health").status_code == 200
    error = refusal(response)
    assert (response.status_code, error["code"]) == (500, "internal_error")
    assert "secret" not in response.text and "0x7f" not in response.text
    assert error["request_id"] in caplog.text and "0x7f0123456789" in caplog.text


def samples(text: str) -> dict[str, float]:
    """Each series and its value, by the grammar of the text format."""
    name, label = r"[a-zA-Z_:][a-zA-Z0-9_:]*", r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
    line = re.compile(rf"({name}(?:\{{{label}(?:,{label})*\}})?) (\S+)")
    found: dict[str, float] = {}
    typed: set[str] = set()
    for row in text.splitlines():
        if row.startswith("#"):
            kind, metric, *_ = row[2:].split(" ")
            if kind == "TYPE":
                assert metric not in typed
                typed.add(metric)
            continue
        match = line.fullmatch(row)
        assert match, row
        assert match[1] not in found
        found[match[1]] = float(match[2])
        metric = re.sub(r"\{.*", "", match[1])
        assert metric in typed or re.sub("_(bucket|sum|count)$", "", metric) in typed
    assert text.endswith("\n")
    return found


def test_metrics_are_in_prometheus_form_and_count(client: httpx.Client) -> None:
    def read() -> dict[str, float]:
        response = client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        return samples(response.text)

    image = {"image": "data:image/png;base64," + "AAAA" * 30}
    client.post("/v1/embeddings", json={"input": [image]})  # the decode process is there
    before = read()
    assert client.post("/v1/embeddings", json={"input": ["a", "b"]}).status_code == 200
    assert client.post("/v1/embeddings", json={"input": [image]}).status_code >= 400
    assert client.get('/no"such\\route').status_code == 404
    after = read()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    route = 'route="/v1/embeddings",method="POST"'
    assert grown[f'mmembed_http_requests_total{{{route},status="200"}}'] == 1
    assert grown['mmembed_items_total{engine="embed",kind="text"}'] == 2
    assert grown['mmembed_batch_items_sum{engine="embed"}'] == 2
    assert grown['mmembed_model_seconds_count{engine="embed"}'] == 1
    assert after['mmembed_queue_cost{engine="embed"}'] == 0
    assert after['mmembed_queue_requests{engine="rerank"}'] == 0
    assert after["mmembed_process_resident_bytes"] > 1e7
    assert after["mmembed_ready"] == 1
    assert after["mmembed_decode_processes_total"] == 1
    buckets = [after[name] for name in after if name.startswith("mmembed_batch_items_bucket")]
    assert buckets == sorted(buckets)


def test_the_access_log_is_json_without_payload(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="mmembed.server.access"):
        client.post("/v1/embeddings", json=BODY, headers={"x-request-id": "the-one"})
        client.get("/ready?token=" + KEYS[0])
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    found = next(line for line in lines if line["request_id"] == "the-one")
    assert (found["method"], found["path"], found["status"]) == ("POST", "/v1/embeddings", 200)
    assert found["ms"] > 0 and found["client"] == "127.0.0.1"
    for secret in (TEXT, *KEYS):
        assert secret not in caplog.text


def test_an_open_address_needs_a_key_or_the_word() -> None:
    with pytest.raises(ValueError, match="reachable from other machines"):
        ServerSettings(host="0.0.0.0")
    assert ServerSettings(host="0.0.0.0", no_auth=True).media_policy().allowed_roots == ()
    assert not ServerSettings(host="::", api_keys=(SecretStr(KEYS[0]),)).is_local
    with pytest.raises(ValueError, match="at least 16"):
        ServerSettings(api_keys=(SecretStr("short"),))
    with pytest.raises(ValueError, match="drop one"):
        ServerSettings(api_keys=(SecretStr(KEYS[0]),), no_auth=True)


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEYS[0]}\n\n {KEYS[1]} \n")
    assert [key.get_secret_value() for key in read_api_keys(file)] == list(KEYS)
    assert read_api_keys(None, {}) == ()
    found = read_api_keys(None, {"MMEMBED_API_KEY": f"{KEYS[0]}\n"})
    assert [key.get_secret_value() for key in found] == [KEYS[0]]
    assert KEYS[0] not in repr(ServerSettings(api_keys=found))
    file.write_text("# none\n")
    with pytest.raises(ConfigError, match="no key"):
        read_api_keys(file)
    with pytest.raises(ConfigError, match="No such file"):
        read_api_keys(tmp_path / "absent")


def test_urls_are_fetched_from_named_hosts_only() -> None:
    assert not ServerSettings().media_policy().allow_urls
    policy = ServerSettings(allowed_hosts=("media.example",)).media_policy()
    assert policy.allow_urls and policy.allowed_hosts == ("media.example",)
    assert not policy.allow_http and policy.max_redirects == 0


def test_limits_are_no_part_of_the_space(tiny_checkpoint: Path) -> None:
    from mmembed import Embedder

    with (
        Embedder.from_pretrained(tiny_checkpoint) as plain,
        Embedder.from_pretrained(tiny_checkpoint, media=ServerSettings().media_policy()) as served,
    ):
        assert served.space == plain.space
