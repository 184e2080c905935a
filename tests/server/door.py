"""Start a server in a thread, and ask it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn

from mmembed import Embedder, Reranker
from mmembed.server.app import create_app
from mmembed.server.engine import EncodeEngine, RerankEngine
from mmembed.server.settings import ServerSettings

# of the recorded bodies
NAMES = (
    "tiny",
    "text-embedding-3-small",
    "vlm2vec",
    "jina-embeddings-v4",
    "jinaai/jina-clip-v1",
    "embed-v4.0",
    "voyage-multimodal-3.5",
)
_JSON = {"content-type": "application/json"}
RERANKER_NAMES = ("tiny-reranker", "jina-reranker-m0", "rerank-v4.0")


@dataclass
class Door:
    """A running server, and the models that tell what it has to answer."""

    url: str
    embedder: Embedder
    reranker: Reranker
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60))

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def post(self, path: str, body: Any) -> httpx.Response:
        content = json.dumps(body)  # ASCII: also what is no text, such as half of a character
        return self.client.post(self.url + path, content=content, headers=_JSON)

    def answer(self, path: str, body: Any) -> dict[str, Any]:
        response = self.post(path, body)
        assert response.status_code == 200, response.text
        return response.json()

    def refusal(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        response = self.post(path, body)
        assert 400 <= response.status_code < 500, response.text
        return response.status_code, response.json()["error"]

    def vectors(self, path: str, body: Any) -> np.ndarray:
        return rows(self.answer(path, body))


def rows(answer: dict[str, Any]) -> np.ndarray:
    """(N, D) of an answer in floats, of any dialect."""
    if "embeddings" in answer:
        return np.array(answer["embeddings"]["float"], dtype=np.float32)
    assert [each["index"] for each in answer["data"]] == list(range(len(answer["data"])))
    return np.array([each["embedding"] for each in answer["data"]], dtype=np.float32)


@contextmanager
def opened(
    checkpoint: Path,
    reranker: Path | None,
    *,
    inputs: dict[str, Any] | None = None,
    **settings: Any,
) -> Iterator[str]:
    """The address of a server with these settings; `inputs` as for `Embedder.from_pretrained`."""
    limits = ServerSettings(port=0, **settings)
    with ExitStack() as stack:
        policy = limits.media_policy()
        model = Embedder.from_pretrained(checkpoint, media=policy, num_workers=1, inputs=inputs)
        engine = EncodeEngine(stack.enter_context(model), limits)
        rerank = None
        if reranker is not None:
            scorer = Reranker.from_pretrained(reranker, media=policy, num_workers=1)
            rerank = RerankEngine(stack.enter_context(scorer), limits)
        yield stack.enter_context(listening(create_app(engine, limits, rerank=rerank)))


@contextmanager
def listening(app: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"
