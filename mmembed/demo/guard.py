"""Who may talk to the demo, and what a browser is told about every answer.

The page runs with the rights of whoever opens it, so other pages of the same browser must reach
nothing: a request has to come by a name of this computer (`Host`, against DNS rebinding), from
our own page (`Origin`, `Sec-Fetch-Site`, against forged requests), and with the key where there
is one. No script, style or picture from elsewhere, none inline, and no frame around the page.
"""

from __future__ import annotations

import hmac
import ipaddress
import platform
import re
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmembed.server.errors import RequestError
from mmembed.server.settings import ServerSettings

__all__ = ["COOKIE", "Guard", "PageHeaders"]

COOKIE = "mmembed-demo"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; manifest-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_SAFE_METHODS = ("GET", "HEAD")
_HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[^:\[\]]+))(:\d{1,5})?")


class PageHeaders:
    """ASGI, outermost: the headers of every answer, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Guard:
    """ASGI: refuses a request before its body is read. Raises RequestError."""

    def __init__(self, app: ASGIApp, *, settings: ServerSettings) -> None:
        self._app = app
        self._keys = [key.get_secret_value().encode() for key in settings.api_keys]
        self._is_local = settings.is_local
        self._names = {"localhost", "127.0.0.1", "::1", settings.host.strip("[]").lower()}
        if not settings.is_local:
            name = platform.node().lower()
            self._names |= {name, f"{name}.local"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            self._check_host(request.headers)
            # not request.url, which begins with whatever the Host header says
            is_page = scope["path"] == "/" and request.method in _SAFE_METHODS
            _check_origin(request.headers, is_safe=request.method in _SAFE_METHODS, is_page=is_page)
            if self._keys:
                query = scope["query_string"].decode("latin-1")
                given = parse_qs(query).get("key", [""])[0] if is_page else ""
                self._check_key(given or _bearer(request.headers) or _cookie(request.headers))
                if given:  # out of the address, and into a cookie that only this page sends
                    answer = RedirectResponse("/", status_code=303)
                    answer.set_cookie(COOKIE, given, httponly=True, samesite="strict")
                    await answer(scope, receive, send)
                    return
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        """A page elsewhere can point a name of its own at this computer, but no address; and under
        another name a browser sends no key of ours."""
        found = _HOST.fullmatch(headers.get("host", "").lower())
        name = (found["address"] or found["name"]) if found else ""
        is_known = name in self._names or (not self._is_local and _is_address(name))
        if not is_known and not self._keys:
            raise RequestError(
                403, "forbidden_host", "open the page by the address that mmembed demo printed"
            )

    def _check_key(self, given: str) -> None:
        # every key is compared, so that the time tells nothing
        if not sum(hmac.compare_digest(given.encode(), key) for key in self._keys):
            raise RequestError(
                401,
                "invalid_api_key",
                "open the page once by its address with ?key=KEY, or send the key as a header: "
                "authorization: Bearer KEY",
            )


def _check_origin(headers: Headers, *, is_safe: bool, is_page: bool) -> None:
    site = headers.get("sec-fetch-site", "none")
    origin = headers.get("origin")
    is_foreign = site not in ("same-origin", "none") and not is_page
    if origin is not None and not is_safe:
        is_foreign = is_foreign or origin.partition("://")[2] != headers.get("host")
    if is_foreign:
        raise RequestError(403, "forbidden_origin", "another page may not use this one")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _bearer(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""
