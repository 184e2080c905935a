"""Fetch media from http(s) addresses. The only place in mmembed that may open an address.

Off unless the media policy allows it. The rules answer the attacks that peers suffered: one
parser decides which host is meant; the name is resolved once, every address of it must be
reachable from the public internet, and exactly the checked address is dialled (no second lookup
that could answer differently); redirects are off, and checked like a first request when on; no
proxy from the environment, no cookies, no credentials, no compressed bodies; size and wall clock
are bounded. Blocked, absent and refusing hosts get the same answer, so that an error tells
nothing about an inner network.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import re
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from mmembed.errors import InputError, InputErrorCode
from mmembed.inputs.media import MediaPolicy
from mmembed.sources import Url

__all__ = ["fetch", "is_public"]

MAX_URL_LENGTH = 4096
MAX_REDIRECTS = 3
CHUNK_BYTES = 1 << 16
LOOKUP_SECONDS = 5.0
CONNECT_SECONDS = 3.0
FIRST_BYTE_SECONDS = 5.0
_REDIRECTS = {301, 302, 303, 307, 308}
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
# IPv6 forms that carry an IPv4 address: mapped, compatible, NAT64, 6to4, Teredo.
_CARRIERS = tuple(
    ipaddress.ip_network(network)
    for network in (
        "::ffff:0:0/96",
        "::/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2002::/16",
        "2001::/32",
    )
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class _Target:
    """A checked address: what to dial comes from resolving `host` once."""

    scheme: str
    host: str
    port: int
    path: str


def fetch(url: Url, policy: MediaPolicy, part: str = "item") -> tuple[bytes, str]:
    """The body at an address, and the host for messages.

    Raises:
        InputError: `forbidden_url` (not allowed, or not a plain public address), `fetch_failed`,
            `fetch_timeout`, `too_large`, `empty`.
    """
    deadline = time.monotonic() + policy.fetch_timeout_seconds
    address = url.url
    request = _Request(part=part, name="url", policy=policy, deadline=deadline)
    for hop in range(min(policy.max_redirects, MAX_REDIRECTS) + 1):
        target = request.check(address)
        if hop == 0:
            request.name = target.host
        status, location, body = request.send(target)
        if status not in _REDIRECTS:
            return body, request.name
        if policy.max_redirects == 0:
            raise request.error("fetch_failed", "the host redirects, which is off (max_redirects)")
        address = urljoin(address, location)
    raise request.error("fetch_failed", "too many redirects (max_redirects)")


@dataclass
class _Request:
    """One fetch with its redirects: the policy, the clock and the name for errors."""

    part: str
    name: str
    policy: MediaPolicy
    deadline: float

    def error(self, code: InputErrorCode, detail: str) -> InputError:
        return InputError(code, detail, part=self.part, source=self.name)

    def check(self, address: str) -> _Target:
        """Parse an address strictly; anything two parsers could read differently is refused."""
        policy = self.policy
        if not policy.allow_urls:
            raise self.error(
                "forbidden_url", "fetching is off; allow it with MediaPolicy(allow_urls=True)"
            )
        if len(address) > MAX_URL_LENGTH or not re.fullmatch(r"[!-\[\]-~]+", address):
            raise self.error(
                "forbidden_url", "spaces, backslashes, control and non-ASCII characters are refused"
            )
        try:
            parts = urlsplit(address)
            port = parts.port
        except ValueError:
            raise self.error("forbidden_url", "not a well-formed address") from None
        schemes = ("http", "https") if policy.allow_http else ("https",)
        scheme = parts.scheme.lower()
        if scheme not in schemes:
            raise self.error("forbidden_url", f"allowed schemes: {', '.join(schemes)}")
        if "@" in parts.netloc:
            raise self.error("forbidden_url", "credentials in an address are refused")
        host = (parts.hostname or "").lower()
        if not _HOST.fullmatch(host) or _is_numeric(host):
            raise self.error("forbidden_url", "the host must be a plain name, not a number")
        if port is not None and port != _DEFAULT_PORTS[scheme] and not self._lists(host):
            raise self.error("forbidden_url", "only the usual port of the scheme is allowed")
        if policy.allowed_hosts and not self._lists(host):
            raise self.error("forbidden_url", "the host is not in allowed_hosts")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return _Target(scheme, host, _DEFAULT_PORTS[scheme] if port is None else port, path)

    def _lists(self, host: str) -> bool:
        return host in {name.lower() for name in self.policy.allowed_hosts}

    def remaining(self, limit: float) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise self._too_slow()
        return min(left, limit)

    def _too_slow(self) -> InputError:
        seconds = self.policy.fetch_timeout_seconds
        return self.error(
            "fetch_timeout", f"no complete answer (fetch_timeout_seconds: {seconds:g})"
        )

    def _unreachable(self) -> InputError:
        return self.error("fetch_failed", "the host cannot be reached")

    def send(self, target: _Target) -> tuple[int, str, bytes]:
        """Status, location of a redirect, and body."""
        connection = self._connect(target)
        try:
            return self._exchange(connection, target)
        except InputError:
            raise
        except TimeoutError:
            raise self._too_slow() from None
        except (OSError, http.client.HTTPException, ValueError):
            raise self.error("fetch_failed", "the host did not give a valid answer") from None
        finally:
            connection.close()

    def _exchange(
        self, connection: http.client.HTTPConnection, target: _Target
    ) -> tuple[int, str, bytes]:
        sock = connection.sock
        assert sock is not None
        sock.settimeout(self.remaining(FIRST_BYTE_SECONDS))
        usual = target.port == _DEFAULT_PORTS[target.scheme]
        headers = {
            "Host": target.host if usual else f"{target.host}:{target.port}",
            "Accept-Encoding": "identity",
            "User-Agent": "mmembed",
            "Connection": "close",
        }
        connection.request("GET", target.path, headers=headers)
        with _BoundedResponse(sock, self) as response:
            response.begin()
            if response.status in _REDIRECTS:
                return response.status, response.headers.get("Location", ""), b""
            if response.status != 200:
                raise self.error("fetch_failed", f"the host answered with status {response.status}")
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise self.error("fetch_failed", "the host sent a compressed body unasked")
            return 200, "", self._body(response)

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        limit = self.policy.max_fetch_bytes
        announced = response.length
        if announced is not None and announced > limit:
            raise self._too_long()
        body = bytearray()
        while True:
            chunk = response.read1(CHUNK_BYTES)
            if not chunk:
                break
            body += chunk
            if len(body) > limit:
                raise self._too_long()
        if announced is not None and len(body) < announced:
            raise self.error("fetch_failed", "the host closed the connection too early")
        if not body:
            raise self.error("empty", "the host sent no bytes")
        return bytes(body)

    def _too_long(self) -> InputError:
        return self.error(
            "too_large", f"more than {self.policy.max_fetch_bytes:,} bytes (max_fetch_bytes)"
        )

    def _connect(self, target: _Target) -> http.client.HTTPConnection:
        """A connection to one of the checked addresses; the name is not looked up again."""
        connection = http.client.HTTPConnection(target.host, target.port)
        for family, address in self._resolve(target):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(self.remaining(CONNECT_SECONDS))
                sock.connect(address)
                if target.scheme == "https":
                    context = ssl.create_default_context()
                    sock = context.wrap_socket(sock, server_hostname=target.host)
            except (OSError, ValueError):  # ssl errors are OSErrors
                sock.close()
                continue
            except BaseException:
                sock.close()
                raise
            connection.sock = sock
            return connection
        raise self._unreachable()

    def _resolve(self, target: _Target) -> list[tuple[int, Any]]:
        answers: list[Any] = []

        def look_up() -> None:
            # a failed look-up leaves the list empty, which is what a blocked host gives too
            with suppress(OSError, UnicodeError):
                answers.extend(
                    socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
                )

        # the resolver has no time limit of its own that could be set
        thread = threading.Thread(target=look_up, daemon=True)
        thread.start()
        thread.join(self.remaining(LOOKUP_SECONDS))
        addresses = [(family, address) for family, _, _, _, address in list(answers)]
        if not addresses or not all(is_public(str(address[0])) for _, address in addresses):
            # the same answer as for a host that does not exist
            raise self._unreachable()
        return addresses


class _BoundedResponse(http.client.HTTPResponse):
    """A response whose status line and headers also obey the clock of the whole fetch.

    The time limit of a socket is for each read; a host that drips one byte a second would never
    meet it. Reads of the buffered stream below go through a raw layer that lowers the limit.
    """

    def __init__(self, sock: socket.socket, request: _Request) -> None:
        super().__init__(sock, method="GET")
        self.fp.close()
        self.fp = io.BufferedReader(_ClockedReader(sock, request))


class _ClockedReader(socket.SocketIO):
    def __init__(self, sock: socket.socket, request: _Request) -> None:
        super().__init__(sock, "r")
        self._socket = sock
        self._request = request

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._request.remaining(FIRST_BYTE_SECONDS))
        return super().readinto(buffer)


def is_public(address: str) -> bool:
    """Whether an address is reachable from the public internet and from there only.

    IPv6 addresses that carry an IPv4 one are refused as a whole: what they reach depends on the
    local network.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if any(parsed.version == network.version and parsed in network for network in _CARRIERS):
        return False
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


def _is_numeric(host: str) -> bool:
    """Whether a host is an IP address in any spelling: 127.0.0.1, 2130706433, 0x7f.1, 127.1."""
    last = host.rstrip(".").rpartition(".")[2]
    return bool(re.fullmatch(r"\d+|0x[0-9a-f]*", last))
