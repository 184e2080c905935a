"""A server that speaks the few calls of the hub that downloading a data set needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves repositories below `root` at `main` and `COMMIT`.

    Attributes:
        requests: method and path of each request, in order.
        cut_after: bytes of a file after which the next transfer breaks off, once; None = never.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []
        self.cut_after: int | None = None
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[HubServer]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._answer(self.rfile.read(length))

    def _answer(self, body: bytes = b"") -> None:
        hub = self.server_hub
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        hub.requests.append(f"{self.command} {path}")
        api = re.fullmatch(
            r"/api/datasets/([^/]+/[^/]+)/(revision|tree|paths-info)/([^/]+)/?(.*)", path
        )
        if api:
            repo, call, revision, below = api.groups()
            if not (hub.root / repo).is_dir():
                return self._send(404, {"X-Error-Code": "RepoNotFound"}, b"{}")
            if revision not in ("main", COMMIT):
                return self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
            files = [self._entry(repo, file) for file in self._files(repo)]
            if call == "paths-info":
                asked = json.loads(body)["paths"]
                return self._json([file for file in files if file["path"] in asked])
            if call == "tree":
                return self._json([file for file in files if file["path"].startswith(below)])
            siblings = [{"rfilename": file["path"], "size": file["size"]} for file in files]
            return self._json({"id": repo, "sha": COMMIT, "siblings": siblings})
        file = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if file and (hub.root / file[1] / file[3]).is_file():
            return self._file(hub.root / file[1] / file[3])
        return self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")

    def _files(self, repo: str) -> list[Path]:
        return sorted(path for path in (self.server_hub.root / repo).rglob("*") if path.is_file())

    def _entry(self, repo: str, file: Path) -> dict[str, Any]:
        name = file.relative_to(self.server_hub.root / repo).as_posix()
        oid = hashlib.sha1(file.read_bytes()).hexdigest()
        return {"type": "file", "path": name, "size": file.stat().st_size, "oid": oid}

    def _file(self, file: Path) -> None:
        content = file.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            return self._send(200, headers, content)
        begin, end = int(asked[1]), int(asked[2] or len(content) - 1)
        headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
        return self._send(206, headers, content[begin : end + 1])

    def _json(self, content: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        hub = self.server_hub
        if hub.cut_after is not None and "ETag" in headers and len(body) > hub.cut_after:
            body, hub.cut_after = body[: hub.cut_after], None
            self.close_connection = True
        self.wfile.write(body)
