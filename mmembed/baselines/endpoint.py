"""A server with the OpenAI-compatible `/embeddings` as an encoder of texts.

Several texts of an item are joined by a blank; an instruction stands in front, with a blank behind
it, as `sentence_transformers.py` has it. Queries and documents are sent alike. What the server runs
is known by its address and the name of the model only: under one name it must stay the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mmembed.baselines.distinct_items import check_rows, distinct_items, raise_all
from mmembed.endpoints.client import EndpointClient
from mmembed.errors import ConfigError, EndpointError, InputError
from mmembed.types import MultimodalInput, Role, Text

__all__ = ["EndpointModel"]

_BATCH_SIZE = 32
_REFUSALS = {400, 413, 422}  # of the content, not of the caller


class EndpointModel:
    """See `ItemEncoder`.

    Args:
        address: `URL#MODEL`, or `URL#MODEL#VARIABLE` with the environment variable that holds the
            key; the URL goes up to and including the version, `http://localhost:8000/v1`.
        options: of `EndpointClient`.

    Raises:
        ConfigError: the address is none.
    """

    def __init__(self, address: str, **options: Any) -> None:
        url, _, rest = address.partition("#")
        model, _, variable = rest.partition("#")
        if not url or not model:
            raise ConfigError(
                f"endpoint:{address} names no model; give endpoint:URL#MODEL or "
                "endpoint:URL#MODEL#VARIABLE, where the variable holds the key"
            )
        self.client = EndpointClient(url, model=model, api_key_env=variable or None, **options)
        self.name = f"endpoint:{url}#{model}"

    @cached_property
    def embedding_dimension(self) -> int:
        return len(self._ask(["length of a vector"])[0])

    @property
    def space(self) -> str:
        fields = ["endpoint 1", self.client.base_url, self.client.model]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()

    def encode(
        self,
        items: Sequence[MultimodalInput],
        *,
        role: Role,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        groups = distinct_items(items)
        raise_all([_refusal(places[0]) for item, places in groups if item.modality != "text"])
        texts = [_text(item) for item, _ in groups]
        batches = [texts[n : n + _BATCH_SIZE] for n in range(0, len(texts), _BATCH_SIZE)]
        try:
            found = [row for batch in self._ask_many(batches) for row in batch]
        except EndpointError as error:
            if error.status not in _REFUSALS:
                raise
            found = self._one_by_one(texts, [places[0] for _, places in groups])
        rows = np.empty((len(items), self.embedding_dimension), dtype=np.float32)
        for (_, places), row in zip(groups, found, strict=True):
            rows[places] = self._unit(row)
        return check_rows(rows)

    def describe(self) -> Mapping[str, Any]:
        return {
            "kind": "endpoint",
            "space": self.space,
            "url": self.client.base_url,
            "model": self.client.model,
            "modalities": ["text"],
            "embedding_dimension": self.embedding_dimension,
        }

    def close(self) -> None:
        self.client.close()

    def _ask(self, texts: Sequence[str]) -> list[list[float]]:
        return self._ask_many([texts])[0]

    def _ask_many(self, batches: Sequence[Sequence[str]]) -> list[list[list[float]]]:
        bodies = [{"input": list(batch), "encoding_format": "float"} for batch in batches]
        answers = self.client.post_many("embeddings", bodies)
        return [
            self._vectors(answer, len(batch))
            for answer, batch in zip(answers, batches, strict=True)
        ]

    def _one_by_one(self, texts: Sequence[str], places: Sequence[int]) -> list[list[float]]:
        """After a refusal, which does not say of what."""
        found, errors = [], []
        for text, place in zip(texts, places, strict=True):
            try:
                found += self._ask([text])
            except EndpointError as error:
                if error.status not in _REFUSALS:
                    raise
                errors.append(InputError("invalid_text", str(error), part="text", index=place))
        raise_all(errors)
        return found

    def _vectors(self, answer: Mapping[str, Any], count: int) -> list[list[float]]:
        """In the order of the texts, whatever the order of the answer."""
        found: dict[int, list[float]] = {}
        data = answer.get("data")
        for place, entry in enumerate(data if isinstance(data, list) else []):
            if not isinstance(entry, Mapping) or not isinstance(entry.get("embedding"), list):
                raise self._unusable(f"entry {place} has no `embedding` that is a list")
            index = entry.get("index", place)
            if not isinstance(index, int):
                raise self._unusable(f"entry {place} has the index {index!r}")
            found[index] = entry["embedding"]
        if sorted(found) != list(range(count)):
            raise self._unusable(f"it has {len(found)} embeddings for {count} texts")
        return [found[place] for place in range(count)]

    def _unit(self, row: list[float]) -> np.ndarray:
        try:
            vector = np.array(row, dtype=np.float64)
        except (TypeError, ValueError):
            raise self._unusable("an embedding holds something that is no number") from None
        if vector.shape != (self.embedding_dimension,):
            raise self._unusable(
                f"embeddings of {vector.size} and of {self.embedding_dimension} numbers"
            )
        with np.errstate(invalid="ignore", divide="ignore"):
            unit: np.ndarray = vector / np.linalg.norm(vector)
        return unit

    def _unusable(self, why: str) -> EndpointError:
        return EndpointError(f"{self.name}: the answer cannot be used: {why}")


def _text(item: MultimodalInput) -> str:
    said = " ".join(part.text for part in item.parts if isinstance(part, Text))
    instruction = item.instruction or ""
    return instruction + (" " if instruction and not instruction[-1].isspace() else "") + said


def _refusal(place: int) -> InputError:
    return InputError("invalid_type", "an endpoint takes texts only", index=place)
