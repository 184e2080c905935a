"""A real server on a port of this machine, in front of tiny models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmembed import Embedder, Reranker
from mmembed.inputs.prompt import load_template
from tests.server.door import NAMES, RERANKER_NAMES, Door, opened
from tests.server.payloads import data_uri
from tests.server.victim import LIMITS, MB, Victim, attacked


@pytest.fixture(scope="session")
def door(tiny_checkpoint: Path, tiny_reranker: Path) -> Iterator[Door]:
    """The server, and the same models for reference, loaded once more."""
    template = load_template("rzen_release")
    query = {"query": "Find what answers the question: "}  # so that roles differ
    inputs = {"prompt": template.model_copy(update={"instructions": query})}
    with (
        Embedder.from_pretrained(tiny_checkpoint, num_workers=1, inputs=inputs) as embedder,
        Reranker.from_pretrained(tiny_reranker, num_workers=1) as reranker,
        opened(
            tiny_checkpoint,
            tiny_reranker,
            inputs=inputs,
            model_names=NAMES,
            reranker_names=RERANKER_NAMES,
            max_item_tokens=512,
            max_items=64,
            max_image_bytes=1_000_000,
        ) as url,
    ):
        with Door(url, embedder, reranker) as found:
            yield found


@pytest.fixture(scope="session")
def victim(tiny_checkpoint: Path, tiny_reranker: Path) -> Iterator[Victim]:
    """A server in a process of its own, whose limits are met quickly."""
    with attacked(tiny_checkpoint, tiny_reranker, **LIMITS) as found:
        found.embedding_refusal({"image": data_uri(b"no picture")})  # its decoder is warm
        yield found


@pytest.fixture
def survives(victim: Victim) -> Iterator[None]:
    """Afterwards the server serves as before and has not grown."""
    before = victim.peak_bytes
    yield
    victim.check()
    assert victim.peak_bytes < before + 150 * MB
