"""A small server with the OpenAI-compatible interface that misbehaves when it is told to.

It runs in a thread, answers `/v1/chat/completions` and `/v1/embeddings`, and keeps everything that
it was asked: `requests` in order, and `counts` by input.

    with ModelServer(answer=lambda body: '{"text": "hello"}') as server:
        server.faults = {0: Fault("status", 429, {"Retry-After": "0"})}
        EndpointClient(server.url, model="any")
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """What happens instead of an answer.

    kind: `status` (value: the code), `body` (value: these bytes with status 200), `cut` (half of
    the bytes that Content-Length announces), `close` (no answer at all), `hang` (value: an Event
    that ends it), `drip` (value: such an Event; one byte at a time until then), `no_schema` (400
    when the body asks for a response format), `redirect` (value: the address).
    """

    kind: str
    value: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "made up"


@dataclass(frozen=True)
class Asked:
    path: str
    body: Json
    headers: Mapping[str, str]


def last_text(body: Json) -> str:
    """The text of the last user message, or the inputs of an embedding request."""
    if "input" in body:
        return json.dumps(body["input"])
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def usage_of(body: Json, answer: str) -> Json:
    """Words in, words out: what the server bills."""
    num_in, num_out = len(json.dumps(body["messages"]).split()), len(answer.split())
    return {
        "prompt_tokens": num_in,
        "completion_tokens": num_out,
        "total_tokens": num_in + num_out,
    }


def vector_of(text: str, dimension: int = 8) -> list[float]:
    digest = hashlib.sha256(text.encode()).digest()
    return [byte / 255 - 0.5 for byte in digest[:dimension]]


class ModelServer:
    """Args:
    answer: content of a chat answer (None: the server sends null).
    fault: what goes wrong with request number n (from 0), None when it is answered well.
    """

    def __init__(
        self,
        answer: Callable[[Json], str | None] = lambda body: "{}",
        fault: Callable[[int, Json], Fault | None] = lambda number, body: None,
        vector: Callable[[str], list[float]] = vector_of,
    ) -> None:
        self.answer = answer
        self.fault = fault
        self.vector = vector
        self.requests: list[Asked] = []
        self.counts: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()  # by Idempotency-Key: what was billed
        self.billed = Counter[str]()
        self.most_at_once = 0
        self._at_once = 0
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _reply(self, path: str, body: Json, headers: Mapping[str, str]) -> Json:
        if path.endswith("/embeddings"):
            inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
            rows = [
                {"index": place, "embedding": self.vector(text), "object": "embedding"}
                for place, text in enumerate(inputs)
            ]
            return {"object": "list", "data": rows, "usage": {"total_tokens": len(inputs)}}
        content = self.answer(body)
        usage = usage_of(body, content or "")
        with self.lock:
            self.answered[headers.get("idempotency-key", "")] += 1
            self.billed.update(usage)
        message = {"role": "assistant", "content": content}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": usage}  # fmt: skip

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805  the handler is `self`
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(size))
                headers = {name.lower(): value for name, value in self.headers.items()}
                with server.lock:
                    number = len(server.requests)
                    server.requests.append(Asked(self.path, body, headers))
                    server.counts[last_text(body)] += 1
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                try:
                    fault = server.fault(number, body)
                    if fault is None:
                        reply = server._reply(self.path, body, headers)
                        self._send(200, json.dumps(reply).encode(), {})
                    else:
                        self._misbehave(fault, body, headers)
                except OSError:  # the client left
                    self.close_connection = True
                finally:
                    with server.lock:
                        server._at_once -= 1

            def _misbehave(self, fault: Fault, body: Json, headers: Mapping[str, str]) -> None:
                error = json.dumps({"error": {"message": fault.message}}).encode()
                if fault.kind == "status":
                    self._send(fault.value, error, fault.headers)
                elif fault.kind == "redirect":
                    self._send(307, b"", {"Location": fault.value})
                elif fault.kind == "body":
                    self._send(200, fault.value, fault.headers)
                elif fault.kind == "no_schema" and "response_format" in body:
                    self._send(400, error, {})
                elif fault.kind in {"hang", "close", "cut", "drip"}:
                    self._break_off(fault)
                else:
                    reply = server._reply(self.path, body, headers)
                    self._send(200, json.dumps(reply).encode(), {})

            def _break_off(self, fault: Fault) -> None:
                self.close_connection = True
                if fault.kind == "hang":
                    fault.value.wait(30)
                elif fault.kind == "cut":
                    payload = b'{"choices": [{"message": {"content": "abc"}}]}'
                    self._head(200, len(payload), {})
                    self.wfile.write(payload[:20])
                elif fault.kind == "drip":
                    self._head(200, 1_000_000, {})
                    while not fault.value.wait(0.01):
                        self.wfile.write(b" ")

            def _send(self, status: int, payload: bytes, headers: Mapping[str, str]) -> None:
                self._head(status, len(payload), headers)
                self.wfile.write(payload)

            def _head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(length))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *values: object) -> None:
                pass

        return Handler
