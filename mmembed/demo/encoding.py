"""Queries of several visitors go through each model together."""

from __future__ import annotations

import numpy as np
from starlette.concurrency import run_in_threadpool

from mmembed.demo.library import Library, Space
from mmembed.encoder.embedder import Embedder
from mmembed.server.engine import EncodeEngine
from mmembed.server.settings import ServerSettings
from mmembed.types import MultimodalInput

__all__ = ["QueryEncoders"]


class QueryEncoders:
    """One engine for each model of the library, however many spaces share it."""

    def __init__(self, library: Library, settings: ServerSettings) -> None:
        self._settings = settings
        embedders = [space.embedder for space in library.spaces.values()]
        self._engines: list[tuple[Embedder, EncodeEngine]] = []
        for embedder in embedders:
            if all(embedder is not known for known, _ in self._engines):
                self._engines.append((embedder, EncodeEngine(embedder, settings)))

    async def start(self) -> None:
        for _, engine in self._engines:
            await run_in_threadpool(engine.start)

    async def stop(self) -> None:
        for _, engine in self._engines:
            await engine.stop(self._settings.grace_seconds)

    async def encode(self, space: Space, item: MultimodalInput) -> tuple[np.ndarray, int]:
        """(D,) of a query, with all dimensions of the model, and its number of tokens.

        Raises:
            InputError: the query cannot be used.
            RequestError: too many are waiting, or it took too long.
        """
        engine = next(one for known, one in self._engines if known is space.embedder)
        encoded = await engine.encode([item], role="query")
        if encoded.errors:
            raise encoded.errors[0]
        return encoded.vectors[0], encoded.tokens[0]
