"""What routes ask of the server: vectors of items, scores of pairs; `lanes.py` does the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mmembed.encoder.embedder import Embedder
from mmembed.encoder.reranker import Reranker
from mmembed.errors import InputError
from mmembed.inputs.items import Pair
from mmembed.server.admission import check_count, refusal
from mmembed.server.lanes import ModelEngine
from mmembed.server.metrics import Metrics
from mmembed.server.settings import ServerSettings
from mmembed.types import MultimodalInput, Role

__all__ = ["EncodeEngine", "Encoded", "RerankEngine"]

_WARM_UP = MultimodalInput.of("ready")


@dataclass
class Encoded:
    """What `EncodeEngine.encode` gives.

    Attributes:
        vectors: (N, D) float32 unit rows; NaN where an item failed.
        errors: by position; an error's `index` is its position too.
        tokens: of each item in the language model; 0 where it failed.
        truncated: positions of items whose text was cut.
        patches: of the pictures of each item.
    """

    vectors: np.ndarray
    errors: dict[int, InputError] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)
    patches: list[int] = field(default_factory=list)


class EncodeEngine(ModelEngine):
    """Embeds items of many requests with one embedder."""

    def __init__(
        self, embedder: Embedder, settings: ServerSettings, metrics: Metrics | None = None
    ) -> None:
        encoder = embedder.encoder
        super().__init__(
            embedder,
            lambda inputs: encoder(inputs, normalize=True),
            settings,
            warm_up=_WARM_UP,
            name="embed",
            metrics=metrics,
        )
        self.embedder = embedder

    @property
    def fingerprint(self) -> str:
        return self.embedder.fingerprint

    @property
    def space(self) -> str:
        return self.embedder.space

    @property
    def dimension(self) -> int:
        return self.embedder.embedding_dimension

    async def encode(self, items: Sequence[MultimodalInput], *, role: Role) -> Encoded:
        """Row i belongs to item i; an item that fails costs its own row only.

        Raises:
            RequestError: too many items; Overloaded, EngineTimeout, Stopping or EngineFault.
        """
        errors = _checked(self, items)
        usable = [
            item if error is None else None for item, error in zip(items, errors, strict=True)
        ]
        request = await self._submit(usable, role)
        vectors = np.full((len(items), self.dimension), np.nan, np.float32)
        encoded = Encoded(
            vectors,
            tokens=request.tokens,
            truncated=sorted(request.truncated),
            patches=request.patches,
        )
        for position, (error, outcome) in enumerate(zip(errors, request.outcomes, strict=True)):
            if error is not None:
                encoded.errors[position] = error.at(position)
            elif isinstance(outcome, InputError):
                encoded.errors[position] = outcome
            else:
                vectors[position] = outcome
        return encoded


class RerankEngine(ModelEngine):
    """Scores pairs of many requests with one reranker."""

    def __init__(
        self, reranker: Reranker, settings: ServerSettings, metrics: Metrics | None = None
    ) -> None:
        model = reranker.encoder
        super().__init__(
            reranker,
            lambda inputs: model.scores(model(inputs)),
            settings,
            warm_up=Pair(_WARM_UP, _WARM_UP),
            name="rerank",
            metrics=metrics,
        )
        self.reranker = reranker

    async def score(
        self,
        query: MultimodalInput,
        documents: Sequence[MultimodalInput],
        instruction: str | None = None,
    ) -> list[float | InputError]:
        """How well each document answers the query, in [0, 1], or why there is no score.

        Raises:
            InputError: the query cannot be used.
            RequestError: as `EncodeEngine.encode`.
        """
        if (refused := refusal(query, self.settings)) is not None:
            raise refused
        if query.instruction is None and instruction is not None:
            query = MultimodalInput(query.parts, instruction)
        errors = _checked(self, documents)
        pairs = [
            Pair(query, document) if error is None else None
            for document, error in zip(documents, errors, strict=True)
        ]
        request = await self._submit(pairs, "document")
        scores: list[float | InputError] = []
        for error, outcome in zip(errors, request.outcomes, strict=True):
            found = outcome if error is None else error
            if isinstance(found, InputError):
                if isinstance(found.index, tuple) and "query" in found.index:
                    raise found
                scores.append(found)
            else:
                scores.append(float(found))
        return scores


def _checked(engine: ModelEngine, items: Sequence[MultimodalInput]) -> list[InputError | None]:
    """Why each item is not taken, if so.

    Raises:
        RequestError: too many items.
    """
    check_count(items, engine.settings)
    errors = [refusal(item, engine.settings) for item in items]
    for item, error in zip(items, errors, strict=True):
        engine.metrics.count("items_total", engine=engine.name, kind=item.modality)
        if error is not None:
            engine.metrics.count("item_errors_total", engine=engine.name, code=error.code)
    return errors
