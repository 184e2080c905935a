"""JSON requests to a server with the OpenAI-compatible interface, until one is answered.

The only module besides `inputs/fetch.py` that opens connections. Used by `baselines/endpoint.py`
for vectors and by `synthesis/` for texts.

    with EndpointClient("http://localhost:8000/v1", model="my-model") as client:
        answer = client.post("chat/completions", {"messages": [...]})

Overload (429), errors of the server (500, 502, 503, 504), broken connections, timeouts and answers
that are not JSON are tried again; a refusal is not. No redirect is followed and neither proxies
nor credentials are taken from the environment: what is sent, the key above all, goes to the named
host, through a proxy only where one is named, and nowhere else.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import takewhile
from typing import Any
from urllib.parse import urlsplit

from mmembed.endpoints.pacing import Backoff, Pace, retry_after_seconds
from mmembed.endpoints.workers import work_through
from mmembed.errors import ConfigError, EndpointError, MissingDependencyError

__all__ = ["EndpointClient"]

RETRIED = frozenset({408, 429, 500, 502, 503, 504, 520, 522, 524, 529})
LEAST_SECRET_CHARACTERS = 12  # shorter keys are placeholders such as `none`, and words of answers
SHOWN_CHARACTERS = 300  # of a server's message
FIRST_BACKOFF_SECONDS = 0.5
MOST_BACKOFF_SECONDS = 60.0


class EndpointClient:
    """Posts JSON to one server. Thread-safe; use it as a context manager.

    Args:
        base_url: up to and including the version, such as `http://localhost:8000/v1`.
        api_key_env: name of the environment variable that holds the key; None: no key is sent.
        model: put into every body that names none.
        timeout_seconds: wall clock of one attempt, from connecting to the last byte.
        connect_seconds, read_seconds: for a connection, and between two pieces of an answer; the
            latter must leave the model the time to write (answers are not streamed).
        max_retries: attempts after the first.
        most_wait_seconds: a server that asks for a longer wait than this ends the request.
        requests_per_minute, tokens_per_minute: of all threads together; None: no limit.
        max_response_bytes: a longer answer is refused.
        concurrency: requests in flight at once.
        proxy: address of an HTTP proxy for all requests; None: none, whatever the environment says.
        seed: of the jitter in the waits between attempts.

    Raises:
        ConfigError: an address that is none, or a key that is not in the environment.
        MissingDependencyError: the HTTP library is not installed.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        api_key_env: str | None = None,
        timeout_seconds: float = 600.0,
        connect_seconds: float = 10.0,
        read_seconds: float = 300.0,
        max_retries: int = 6,
        most_wait_seconds: float = 600.0,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_response_bytes: int = 64_000_000,
        concurrency: int = 8,
        proxy: str | None = None,
        seed: int = 0,
        first_backoff_seconds: float = FIRST_BACKOFF_SECONDS,
    ) -> None:
        if find_spec("httpx2") is None:
            raise MissingDependencyError("httpx2", "synthesis")
        import httpx2

        self.base_url = _checked_address(base_url)
        self.host = urlsplit(self.base_url).netloc
        self.model = model
        self.concurrency = concurrency
        self.max_retries = max_retries
        self._most_wait = most_wait_seconds
        self._timeout_seconds = timeout_seconds
        self._max_response_bytes = max_response_bytes
        self._key = _key(api_key_env)
        self._pace = Pace(
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            now=time.monotonic(),
        )
        self._backoff = Backoff(
            first_seconds=first_backoff_seconds, most_seconds=MOST_BACKOFF_SECONDS, seed=seed
        )
        self._stopped = threading.Event()
        self._http = httpx2.Client(
            proxy=_checked_proxy(proxy),
            timeout=httpx2.Timeout(read_seconds, connect=connect_seconds, pool=None),
            limits=httpx2.Limits(max_connections=concurrency),
            follow_redirects=False,
            trust_env=False,
        )

    def __enter__(self) -> EndpointClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EndpointClient({self.base_url!r}, model={self.model!r})"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def stop(self) -> None:
        """Start no more attempts: threads that wait give up, answers in flight are taken."""
        self._stopped.set()

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        headers: Mapping[str, str] | None = None,
        num_tokens: float = 0.0,
    ) -> dict[str, Any]:
        """The answer to one request.

        Args:
            path: below `base_url`, such as `embeddings`.
            headers: sent besides the key, the same on every attempt.
            num_tokens: expected of request and answer, for `tokens_per_minute`.

        Raises:
            EndpointError: refused, no usable answer after `max_retries`, or stopped.
        """
        text = json.dumps({"model": self.model, **body}, ensure_ascii=False)
        payload = text.encode(errors="replace")  # half of a surrogate pair has no bytes
        attempt = 0
        while True:
            self._wait(self._pace.enter(num_tokens, time.monotonic()))
            try:
                answer = self._attempt(path, payload, dict(headers or {}))
            except _Failed as failure:
                if attempt >= self.max_retries:
                    raise EndpointError(
                        f"{self.host}: {failure.reason} ({attempt + 1} attempts)",
                        status=failure.status,
                        retryable=True,
                    ) from None
                self._before_retry(failure, attempt)
                attempt += 1
                continue
            usage = answer.get("usage")
            used = usage.get("total_tokens") if isinstance(usage, dict) else None
            if isinstance(used, int | float):
                self._pace.settle(num_tokens, used, time.monotonic())
            return answer

    def post_many(
        self, path: str, bodies: Sequence[Mapping[str, Any]], *, num_tokens: float = 0.0
    ) -> list[dict[str, Any]]:
        """The answers to all bodies, in order, `concurrency` at a time; the first error ends it."""
        answers: list[dict[str, Any]] = [{}] * len(bodies)
        errors: list[Exception] = []

        def ask(index: int) -> None:
            answers[index] = self.post(path, bodies[index], num_tokens=num_tokens)

        wanted = takewhile(lambda index: not errors, range(len(bodies)))
        for _, error in work_through(
            ask, wanted, num_threads=min(self.concurrency, len(bodies)), stop=self.stop
        ):
            if error is not None:
                errors.append(error)
        if errors:
            raise errors[0]
        return answers

    def _before_retry(self, failure: _Failed, attempt: int) -> None:
        asked = failure.retry_after
        if asked is not None and asked > self._most_wait:
            raise EndpointError(
                f"{self.host}: {failure.reason}; it asks to wait {asked:.0f} seconds, more than "
                f"{self._most_wait:.0f}. Run the same command again later",
                status=failure.status,
                retryable=True,
            )
        wait = max(asked or 0.0, self._backoff.seconds(attempt))
        if failure.status in {429, 503}:
            self._pace.close_for(asked if asked is not None else wait, time.monotonic())
        self._wait(wait)

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(seconds) if seconds > 0 else self._stopped.is_set():
            raise EndpointError(f"{self.host}: stopped", retryable=True)

    def _attempt(self, path: str, payload: bytes, headers: dict[str, str]) -> dict[str, Any]:
        import httpx2

        headers = {
            **headers,
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "mmembed",
        }
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        url = f"{self.base_url}/{path.lstrip('/')}"
        deadline = time.monotonic() + self._timeout_seconds
        try:
            with self._http.stream("POST", url, content=payload, headers=headers) as response:
                body = self._body(response, deadline)
                return self._judged(response.status_code, response.headers, body)
        except httpx2.TimeoutException:
            raise _Failed("no answer in time") from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _Failed(f"the connection failed ({type(error).__name__})") from None

    def _body(self, response: Any, deadline: float) -> str:
        """The text of an answer; a server that repeats the key does not get it into our files."""
        body = bytearray()
        for chunk in response.iter_bytes():  # as they arrive: a size would wait for it to fill
            body += chunk
            if len(body) > self._max_response_bytes:
                raise EndpointError(
                    f"{self.host}: the answer is longer than {self._max_response_bytes:,} bytes "
                    "(max_response_bytes)",
                    status=response.status_code,
                )
            if time.monotonic() > deadline:
                raise _Failed(f"no complete answer in {self._timeout_seconds:g} seconds")
        text = body.decode("utf-8", errors="replace")
        is_secret = len(self._key) >= LEAST_SECRET_CHARACTERS
        return text.replace(self._key, "***") if is_secret else text

    def _judged(self, status: int, headers: Mapping[str, str], text: str) -> dict[str, Any]:
        """The object of a good answer, or why it is none."""
        if status == 200:
            try:
                answer = json.loads(text)
            except (ValueError, RecursionError):
                raise _Failed("the answer is not JSON", status=status) from None
            if not isinstance(answer, dict):
                raise _Failed("the answer is no JSON object", status=status)
            if not answer.get("error") or answer.keys() & {"choices", "data"}:
                return answer
        message, code = _said(text)
        reason = f"status {status}" + (f": {message}" if message else "")
        if status in {200, *RETRIED} and code != "insufficient_quota":
            raise _Failed(reason, status=status, retry_after=retry_after_seconds(headers))
        if 300 <= status < 400:
            reason += "; redirects are not followed: give the final address as base URL"
        if status in {401, 403}:
            reason += "; is the environment variable with the key named, and the key right?"
        raise EndpointError(f"{self.host}: {reason}", status=status)


class _Failed(Exception):  # noqa: N818  of one attempt, never seen outside
    def __init__(
        self, reason: str, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.retry_after = retry_after


def _checked_address(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or "?" in base_url or "#" in base_url:
        raise ConfigError(
            f"endpoint {base_url!r} is not an address; give one such as http://localhost:8000/v1"
        )
    if "@" in parts.netloc:
        raise ConfigError(
            "the endpoint's address holds credentials; put the key into an environment variable "
            "and name that"
        )
    return base_url.rstrip("/")


def _checked_proxy(address: str | None) -> str | None:
    try:
        valid = address is None or bool(urlsplit(address).hostname)
    except ValueError:
        valid = False
    if not valid or (address and urlsplit(address).scheme not in {"http", "https"}):
        raise ConfigError("the proxy is not an address; give one such as http://proxy:3128")
    return address


def _key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"the environment variable {variable} is not set; it must hold the key")
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"the key in {variable} has characters that no HTTP header can hold")
    return key


def _said(text: str) -> tuple[str, str]:
    """Message and code of an error's body, shortened, without control characters."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    code = ""
    if isinstance(value, dict):
        value = value.get("error", value)
    if isinstance(value, dict):
        code = str(value.get("code") or value.get("type") or "")
        value = value.get("message") or value.get("detail") or value
    message = " ".join(str(value).split())
    message = "".join(letter if letter.isprintable() else "?" for letter in message)
    shown = message[:SHOWN_CHARACTERS]
    return shown + ("..." if len(message) > len(shown) else ""), code
