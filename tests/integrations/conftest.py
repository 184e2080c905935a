"""One model for all frameworks, and no word to anybody outside."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmembed import Embedder
from mmembed.inputs.media import MediaPolicy

# read when the libraries are imported
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "false"
os.environ["LANGSMITH_TRACING"] = os.environ["LANGCHAIN_TRACING_V2"] = "false"
os.environ["DO_NOT_TRACK"] = "1"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"a framework called {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def embedder(tiny_checkpoint: Path) -> Iterator[Embedder]:
    with Embedder.from_pretrained(tiny_checkpoint, media=MediaPolicy(isolate=False)) as model:
        yield model


@pytest.fixture(scope="session")
def prompted(tiny_checkpoint: Path, embedder: Embedder) -> Iterator[Embedder]:
    """A model with an instruction for each role."""
    prompt = embedder.processor.config.prompt.model_dump()
    prompt["instructions"] = {"query": "Look for: ", "document": "Keep: "}
    with Embedder.from_pretrained(
        tiny_checkpoint, inputs={"prompt": prompt}, media=MediaPolicy(isolate=False)
    ) as model:
        assert (model.encode("a dog", role="query") != model.encode("a dog")).any()
        yield model
