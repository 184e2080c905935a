"""A headless browser on the demo's page: it notes whatever a page must never do."""

from __future__ import annotations

import json
import os
import shutil
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Request

__all__ = [
    "ARGUMENTS",
    "MARKUP",
    "QUERY",
    "Visit",
    "Visitor",
    "ask",
    "chromium",
    "first",
    "needs_browser",
    "served",
    "visiting",
]

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic"]
MARKUP = "<img src=x onerror=alert(1)>.png"  # a file of the tiny library
QUERY = "a red apple"
_TIMEOUT = 20_000  # milliseconds
_NOTE_VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation",
  (event) => violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


def chromium() -> str | None:
    """The system's browser; Playwright's own is never downloaded."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


needs_browser = pytest.mark.skipif(
    chromium() is None, reason="no chromium on PATH, and CHROMIUM is not set"
)


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of the application, on a free port of this machine."""
    import uvicorn

    config = uvicorn.Config(app, port=0, ws="none", lifespan="on", log_config=None)
    started = threading.Event()

    class Noting(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    server = Noting(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert started.wait(60), "the server did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()


def ask(address: str, path: str, body: Any = None) -> Any:
    """The JSON that the server answers, without the page."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(address + path, data=data, headers=headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def first(address: str, kind: str, **least: float) -> dict[str, Any]:
    """A hit of this kind whose fields are at least as large."""
    found = ask(address, "api/search", {"text": QUERY, "kinds": [kind], "k": 100})["hits"]
    return next(hit for hit in found if all(hit[name] >= low for name, low in least.items()))


class Visit:
    """One visitor's page.

    Attributes:
        problems: errors on the console, exceptions, violations of the policy, foreign requests.
        tolerated: parts of problems that this test makes on purpose.
    """

    def __init__(self, page: Page, address: str, screenshots: Path) -> None:
        self.page, self.address, self.screenshots = page, address, screenshots
        self.problems: list[str] = []
        self.tolerated: list[str] = []
        page.set_default_timeout(_TIMEOUT)
        page.add_init_script(_NOTE_VIOLATIONS)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        page.on("request", self._watch)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"console: {message.text} {message.location['url']}")

    def _watch(self, request: Request) -> None:
        if not request.url.startswith((self.address, "blob:", "about:")):
            self.problems.append(f"foreign request: {request.url}")

    def open(self, fragment: str = "") -> Page:
        """Load the page anew and wait until nothing is under way."""
        self.page.goto("about:blank")
        self.page.goto(self.address + fragment)
        self.settle()
        return self.page

    def settle(self) -> None:
        self.page.wait_for_selector('#results[aria-busy="false"]', state="attached")

    def search(self, text: str) -> Locator:
        """Type, press Enter; the cards."""
        with self.page.expect_response("**/api/search"):
            self.page.fill("#text", text)
            self.page.press("#text", "Enter")
        self.settle()
        return self.cards

    def attach(self, name: str, data: bytes) -> dict[str, Any]:
        """Choose a file; the search that follows, as the server got it."""
        with self.page.expect_request("**/api/search") as searched:
            file = {"name": name, "mimeType": "application/octet-stream", "buffer": data}
            self.page.set_input_files("#file", [file])  # type: ignore[list-item]
        self.settle()
        body: dict[str, Any] = searched.value.post_data_json
        return body

    @property
    def cards(self) -> Locator:
        return self.page.locator("#results .card-open")

    @property
    def names(self) -> list[str]:
        return self.page.locator("#results .card-name").all_inner_texts()

    def shoot(self, name: str) -> None:
        self.screenshots.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self.screenshots / f"{name}.png")

    def overflow(self) -> int:
        """By how many pixels the page is wider than the screen."""
        wide: int = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return wide

    def check(self) -> None:
        found = [*self.problems, *self.page.evaluate("window.violations ?? []")]
        left = [one for one in found if not any(part in one for part in self.tolerated)]
        assert not left, left


@contextmanager
def visiting(browser: Browser, address: str, screenshots: Path, **context: Any) -> Iterator[Visit]:
    """A fresh visitor; what the page did wrong fails the test at the end."""
    context.setdefault("viewport", {"width": 1280, "height": 860})
    opened = browser.new_context(locale="en-GB", **context)
    try:
        visit = Visit(opened.new_page(), address, screenshots)
        yield visit
        visit.check()
    finally:
        opened.close()


Visitor = Callable[..., AbstractContextManager[Visit]]
