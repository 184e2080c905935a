"""The client against a real local server that misbehaves in every way it knows."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from mmembed.endpoints.client import EndpointClient
from mmembed.endpoints.pacing import retry_after_seconds
from mmembed.errors import ConfigError, EndpointError
from tests.endpoints.server import Fault, ModelServer, vector_of

KEY = "sk-made-up-0123456789abcdef"
BODY = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(answer=lambda body: "hi") as running:
        yield running


def client_of(server: ModelServer, **options: object) -> EndpointClient:
    settings: dict[str, object] = {"model": "toy", "first_backoff_seconds": 0.001, **options}
    return EndpointClient(server.url, **settings)  # type: ignore[arg-type]


def failing(*faults: Fault):  # type: ignore[no-untyped-def]
    """The first requests fail so, all others are answered."""
    return lambda number, body: faults[number] if number < len(faults) else None


def content(answer: dict) -> str:  # type: ignore[type-arg]
    return str(answer["choices"][0]["message"]["content"])


def test_a_good_answer_comes_back_with_the_model_in_the_body(server: ModelServer) -> None:
    with client_of(server) as client:
        assert content(client.post("chat/completions", BODY)) == "hi"
    (asked,) = server.requests
    assert asked.path == "/v1/chat/completions"
    assert asked.body == {"model": "toy", **BODY}
    assert "authorization" not in asked.headers


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", 429, {"Retry-After": "0"}),
        Fault("status", 429),
        Fault("status", 500),
        Fault("status", 502),
        Fault("status", 503),
        Fault("status", 504),
        Fault("body", b'{"choices": [{"mess'),
        Fault("body", b"<html>busy</html>"),
        Fault("body", b"[]"),
        Fault("body", b""),
        Fault("cut"),
        Fault("close"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.value}"[:20],
)
def test_what_may_pass_is_tried_again_until_it_does(server: ModelServer, fault: Fault) -> None:
    server.fault = failing(fault, fault)
    with client_of(server) as client:
        assert content(client.post("chat/completions", BODY, headers={"Idempotency-Key": "k"}))
    assert len(server.requests) == 3
    assert {asked.headers["idempotency-key"] for asked in server.requests} == {"k"}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 501])
def test_a_refusal_is_not_tried_again_and_says_what_the_server_said(
    server: ModelServer, status: int
) -> None:
    server.fault = failing(Fault("status", status, message="no \x1b[31m such\nthing " + "x" * 999))
    with client_of(server) as client, pytest.raises(EndpointError) as refusal:
        client.post("chat/completions", BODY)
    assert len(server.requests) == 1
    assert (refusal.value.status, refusal.value.retryable) == (status, False)
    assert "such thing" in str(refusal.value) and "\x1b" not in str(refusal.value)
    assert len(str(refusal.value)) < 500


def test_an_exhausted_quota_is_not_an_overload(server: ModelServer) -> None:
    body = json.dumps({"error": {"code": "insufficient_quota", "message": "pay"}})
    with client_of(server) as client, pytest.raises(EndpointError, match="pay"):
        client._judged(429, {}, body)


def test_retries_end(server: ModelServer) -> None:
    server.fault = lambda number, body: Fault("status", 500)
    with client_of(server, max_retries=3) as client, pytest.raises(EndpointError) as failure:
        client.post("chat/completions", BODY)
    assert len(server.requests) == 4
    assert (failure.value.status, failure.value.retryable) == (500, True)


def test_a_server_that_asks_for_hours_ends_the_request(server: ModelServer) -> None:
    server.fault = failing(Fault("status", 429, {"Retry-After": "7200"}))
    with client_of(server) as client, pytest.raises(EndpointError, match="7200 seconds"):
        client.post("chat/completions", BODY)
    assert len(server.requests) == 1


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    date = format_datetime(now + timedelta(seconds=90), usegmt=True)
    said = [retry_after_seconds({"retry-after": value}, now) for value in ("7", date, "soon", "")]
    assert said == [7.0, 90.0, None, None]
    past = format_datetime(now - timedelta(days=1), usegmt=True)
    assert retry_after_seconds({"retry-after": past}, now) == 0.0


@pytest.mark.parametrize("kind", ["hang", "drip"])
def test_a_slow_server_meets_the_clock(server: ModelServer, kind: str) -> None:
    ended = threading.Event()
    server.fault = failing(Fault(kind, ended))
    limits = {"read_seconds": 0.2} if kind == "hang" else {"timeout_seconds": 0.2}
    with client_of(server, **limits) as client:
        assert content(client.post("chat/completions", BODY)) == "hi"
    ended.set()
    assert len(server.requests) == 2


def test_no_server_at_all_is_an_error_that_may_pass() -> None:
    client = EndpointClient(
        "http://127.0.0.1:1/v1", model="toy", max_retries=1, first_backoff_seconds=0.001
    )
    with client, pytest.raises(EndpointError, match="connection failed") as failure:
        client.post("chat/completions", BODY)
    assert failure.value.retryable


def test_a_redirect_is_not_followed_and_the_key_stays(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_KEY", KEY)
    with ModelServer() as other:
        server.fault = failing(Fault("redirect", other.url + "/chat/completions"))
        with client_of(server, api_key_env="TOY_KEY") as client:
            with pytest.raises(EndpointError, match="redirects are not followed"):
                client.post("chat/completions", BODY)
        assert not other.requests
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_the_key_is_in_no_message_even_when_the_server_repeats_it(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TOY_KEY", KEY)
    server.fault = failing(Fault("status", 401, message=f"wrong key {KEY}"))
    server.answer = lambda body: f"your key is {KEY}"
    caplog.set_level(0)
    with client_of(server, api_key_env="TOY_KEY") as client:
        with pytest.raises(EndpointError) as refusal:
            client.post("chat/completions", BODY)
        assert "wrong key ***" in str(refusal.value)
        assert KEY not in repr(client) + str(client)
        assert content(client.post("chat/completions", BODY)) == "your key is ***"
    assert KEY not in caplog.text


def test_a_long_answer_is_refused_before_it_is_held(server: ModelServer) -> None:
    server.fault = failing(Fault("body", b" " * 50_000))
    with client_of(server, max_response_bytes=10_000) as client:
        with pytest.raises(EndpointError, match="max_response_bytes"):
            client.post("chat/completions", BODY)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "address", ["localhost:8000", "ftp://host/v1", "http://", "http://h:x/v1", "http://h/v1?a=b"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is not an address"):
        EndpointClient(address, model="toy")


def test_credentials_in_the_address_are_refused_without_repeating_them() -> None:
    with pytest.raises(ConfigError) as refusal:
        EndpointClient("http://user:secret@host/v1", model="toy")
    assert "secret" not in str(refusal.value)


def test_a_key_that_is_not_there_is_said_before_anything_is_sent() -> None:
    with pytest.raises(ConfigError, match="NO_SUCH_KEY_HERE is not set"):
        EndpointClient("http://host/v1", model="toy", api_key_env="NO_SUCH_KEY_HERE")


def test_many_requests_keep_their_order_and_stay_within_the_concurrency(
    server: ModelServer,
) -> None:
    texts = [f"text {number}" for number in range(40)]
    refused = texts[::3]  # once each, whatever comes between

    def overloaded(number: int, body: dict[str, Any]) -> Fault | None:
        (text,) = body["input"]
        if text not in refused:
            return None
        refused.remove(text)
        return Fault("status", 503)

    server.fault = overloaded
    with client_of(server, concurrency=4) as client:
        answers = client.post_many("embeddings", [{"input": [text]} for text in texts])
    assert [answer["data"][0]["embedding"] for answer in answers] == list(map(vector_of, texts))
    assert 1 < server.most_at_once <= 4
    assert not refused


def test_the_first_refusal_of_many_ends_them_and_the_client_stays_usable(
    server: ModelServer,
) -> None:
    server.fault = lambda number, body: Fault("status", 400) if number == 5 else None
    with client_of(server, concurrency=2) as client:
        with pytest.raises(EndpointError, match="status 400"):
            client.post_many("embeddings", [{"input": [str(n)]} for n in range(100)])
        assert len(server.requests) < 10
        assert client.post("embeddings", {"input": ["again"]})


def test_a_stopped_client_wakes_those_who_wait(server: ModelServer) -> None:
    waiting = threading.Event()

    def overloaded(number: int, body: object) -> Fault:
        waiting.set()
        return Fault("status", 429, {"Retry-After": "500"})

    server.fault = overloaded
    errors: list[Exception] = []

    def ask() -> None:
        try:
            client.post("chat/completions", BODY)
        except EndpointError as error:
            errors.append(error)

    with client_of(server) as client:
        thread = threading.Thread(target=ask)
        thread.start()
        assert waiting.wait(10)
        client.stop()
        thread.join(10)
    assert "stopped" in str(errors[0])


def test_an_error_in_a_good_envelope_is_tried_again(server: ModelServer) -> None:
    server.fault = failing(Fault("body", b'{"error": {"message": "upstream is down"}}'))
    with client_of(server) as client:
        assert content(client.post("chat/completions", BODY)) == "hi"
    assert len(server.requests) == 2


def test_a_placeholder_for_a_key_does_not_change_answers(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_KEY", "none")
    server.answer = lambda body: "none of them"
    with client_of(server, api_key_env="TOY_KEY") as client:
        assert content(client.post("chat/completions", BODY)) == "none of them"


def test_half_a_surrogate_pair_is_sent_as_a_question_mark(server: ModelServer) -> None:
    with client_of(server) as client:
        client.post("chat/completions", {"messages": [{"role": "user", "content": "a \ud83d"}]})
    assert server.requests[0].body["messages"][0]["content"] == "a ?"


def test_a_proxy_is_used_only_where_it_is_named(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = server.url.removesuffix("/v1")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with client_of(server) as client:
        client.post("chat/completions", BODY)
    with EndpointClient("http://model.invalid/v1", model="toy", proxy=proxy) as client:
        assert content(client.post("chat/completions", BODY)) == "hi"
    assert server.requests[1].path == "http://model.invalid/v1/chat/completions"


def test_a_proxy_that_is_none_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError, match="proxy is not an address") as caught:
        EndpointClient("http://localhost/v1", model="toy", proxy="user:secret@proxy")
    assert "secret" not in str(caught.value)
