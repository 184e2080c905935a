"""A server in a process of its own, to be attacked: `python -m tests.server.victim JSON`."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

# what no answer may hold: addresses of objects, folders, other libraries' names and their words
LEAKS = re.compile(
    r"0x[0-9a-f]{6,}|/tmp/|/root|/home|/usr/|/proc/|/etc/|site-packages|Traceback|"
    r"\.py\b|\bPIL\b|pymupdf|libav|pydantic|errno|\[Errno|root:x:",
    re.IGNORECASE,
)


MB = 1_000_000
LIMITS: dict[str, Any] = {
    "max_body_bytes": 2 * MB,
    "max_items": 16,
    "max_item_tokens": 512,
    "max_pixels": 2 * MB,
    "max_pages": 5,
    "max_frames": 8,
    "max_json_depth": 20,
    "max_connections": 150,
    "header_timeout_seconds": 1.5,
    "body_timeout_seconds": 1.5,
    "request_timeout_seconds": 40.0,
}


class Victim:
    """A running server; every answer that passes through here is looked at."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url
        self.port = int(url.rpartition(":")[2])
        self.client = httpx.Client(base_url=url, timeout=60)

    def post(self, path: str, body: Any) -> httpx.Response:
        content = json.dumps(body)
        return self.send(path, content, {"content-type": "application/json"})

    def send(self, path: str, content: Any, headers: dict[str, str]) -> httpx.Response:
        response = self.client.post(path, content=content, headers=headers)
        return self.judged(response, content if isinstance(content, str) else "")

    def judged(self, response: httpx.Response, sent: str = "") -> httpx.Response:
        assert response.status_code < 500, response.text
        judge_text(response.text, sent)
        if response.status_code >= 400:
            error = response.json()["error"]
            assert error["code"] and error["message"] and error["request_id"]
        return response

    def refusal(self, path: str, body: Any) -> tuple[int, str]:
        response = self.post(path, body)
        assert 400 <= response.status_code < 500, response.text[:300]
        return response.status_code, response.json()["error"]["code"]

    def embedding_refusal(self, item: Any) -> str:
        """The code with which an item of `/v1/embeddings` is refused."""
        return self.refusal("/v1/embeddings", {"input": [item]})[1]

    def raw(self, *pieces: bytes, until_closed: bool = False) -> bytes:
        """What the server answers to these bytes: a whole answer, or all until it closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            answer = b""
            with suppress(BrokenPipeError, ConnectionResetError):
                for piece in pieces:
                    connection.sendall(piece)
            with suppress(ConnectionResetError):
                while until_closed or not _is_whole(answer):
                    piece = connection.recv(65536)
                    if not piece:
                        break
                    answer += piece
        judge_text(answer.decode("latin-1"))
        return answer

    def check(self) -> None:
        """Alive, and serving what it served before."""
        assert self.process.poll() is None
        assert self.client.get("/health").json() == {"status": "ok"}
        assert self.client.get("/ready").status_code == 200
        answer = self.client.post("/v1/embeddings", json={"input": "a red apple"})
        assert answer.status_code == 200

    @property
    def peak_bytes(self) -> int:
        """The most memory that the server's own process has held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]

    @property
    def decoder_bytes(self) -> int:
        """What its decode processes hold now."""
        total = 0
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == self.process.pid:
                total += int(fields[21]) * os.sysconf("SC_PAGESIZE")
        return total


def judge_text(text: str, sent: str = "") -> None:
    """An answer may repeat what was sent; of the server itself it tells nothing."""
    for found in LEAKS.finditer(text):
        assert found[0] in sent, f"the answer tells {found[0]!r}: {text[:300]}"


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)content-length: *([0-9]+)", head)
    return bool(end) and found is not None and len(body) >= int(found[1])


@contextmanager
def attacked(checkpoint: Path, reranker: Path, **settings: Any) -> Iterator[Victim]:
    """A server on the loopback with these settings, ended as an operator would end it."""
    task = {"checkpoint": str(checkpoint), "reranker": str(reranker), "settings": settings}
    command = [sys.executable, "-m", "tests.server.victim", json.dumps(task)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), "the server did not start"
        victim = Victim(process, url)
        try:
            yield victim
        finally:
            victim.client.close()
            process.terminate()
            assert process.wait(60) == 0


def main() -> None:
    from mmembed import Embedder, Reranker
    from mmembed.server.app import create_app
    from mmembed.server.engine import EncodeEngine, RerankEngine
    from mmembed.server.running import run
    from mmembed.server.settings import ServerSettings

    task = json.loads(sys.argv[1])
    settings = ServerSettings(port=0, **task["settings"])
    policy = settings.media_policy()
    with (
        Embedder.from_pretrained(task["checkpoint"], media=policy, num_workers=1) as embedder,
        Reranker.from_pretrained(task["reranker"], media=policy, num_workers=1) as reranker,
    ):
        engine = EncodeEngine(embedder, settings)
        app = create_app(engine, settings, rerank=RerankEngine(reranker, settings))
        # the address, and nothing else, goes to standard output
        run(
            app,
            settings,
            on_ready=lambda url: sys.stdout.write(f"{url}\n") and sys.stdout.flush(),
            access_log=False,
        )


if __name__ == "__main__":
    main()
