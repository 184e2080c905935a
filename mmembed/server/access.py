"""Who may ask: a key on every route but `/health`, or, without one, programs of this machine only.

A web page that a user of this machine visits can send requests to a local server too, also under a
name of its own that leads here. So a server without a key answers to this machine's names only and
to no page from elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection

from mmembed.server.errors import RequestError
from mmembed.server.http_limits import App, Receive, Scope, Send
from mmembed.server.settings import ServerSettings

__all__ = ["AccessControl"]

_OPEN = ("/health",)
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


class AccessControl:
    """ASGI: refuses a request before its body is read."""

    def __init__(self, app: App, *, settings: ServerSettings, open_paths: Collection[str] = _OPEN):
        self._app = app
        self._open = frozenset(open_paths)
        self._keys = [_digest(key.get_secret_value().encode()) for key in settings.api_keys]
        self._only_local = settings.is_local and not settings.api_keys and not settings.no_auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            if self._only_local:
                _check_names(headers)
            if self._keys and scope["path"] not in self._open:
                self._check_key(headers)
        await self._app(scope, receive, send)

    def _check_key(self, headers: dict[bytes, bytes]) -> None:
        given = headers.get(b"x-api-key", b"")
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            given = token.strip()
        digest = _digest(given)
        # all are compared, so that the time says nothing
        if not sum(hmac.compare_digest(digest, key) for key in self._keys):
            raise RequestError(
                401,
                "invalid_api_key",
                "send the server's key in the header authorization: Bearer KEY, or x-api-key: KEY",
            )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _check_names(headers: dict[bytes, bytes]) -> None:
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if _without_port(host) not in _LOCAL_NAMES:
        raise RequestError(
            403,
            "forbidden_host",
            "this server has no key and answers to localhost only; start it with a key, or with "
            "--no-auth to answer to any name",
        )
    origin = headers.get(b"origin")
    if origin is None:
        return
    scheme, _, name = origin.decode("latin-1").lower().partition("://")
    if scheme not in ("http", "https") or name != host:
        raise RequestError(403, "forbidden_origin", "this server answers to no other web page")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and not name.endswith(":") else host
