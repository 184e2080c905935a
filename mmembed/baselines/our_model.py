"""An `Embedder` as an encoder of items: fixed batches, so that vectors depend on the list only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmembed.encoder.embedder import Embedder
from mmembed.encoder.identity import package_versions
from mmembed.types import MultimodalInput, Role

__all__ = ["OurModel"]


class OurModel:
    """See `ItemEncoder`. It closes the embedder that it was given.

    Batches have the default size of the device, whatever `calibrate` found: sizes that are tried
    out would move vectors within rounding from one run to the next.

    Attributes:
        num_truncated: items whose text was cut since the model was loaded.
    """

    def __init__(self, embedder: Embedder, *, name: str | None = None) -> None:
        self.embedder = embedder
        self.name = str(embedder.folder) if name is None else name
        self.num_truncated = 0

    @property
    def space(self) -> str:
        return self.embedder.space

    @property
    def embedding_dimension(self) -> int:
        return self.embedder.embedding_dimension

    def encode(
        self,
        items: Sequence[MultimodalInput],
        *,
        role: Role,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        rows: np.ndarray
        rows, report = self.embedder.encode(
            list(items),
            role=role,
            batch_tokens=self.embedder.batch_tokens().default,
            normalize_embeddings=True,
            show_progress_bar=show_progress_bar,
            return_report=True,
        )
        self.num_truncated += len(report.truncated)
        return rows

    def describe(self) -> Mapping[str, Any]:
        """Everything that a reader of the numbers could ask about the model."""
        inputs, encoder = self.embedder.processor.config, self.embedder.encoder.config
        prompt = json.dumps(
            inputs.prompt.model_dump(mode="json", exclude={"name", "note"}), sort_keys=True
        )
        parameters = self.embedder.encoder.backbone.parameters()
        return {
            "kind": "mmembed",
            "fingerprint": self.embedder.fingerprint,
            "space": self.space,
            "numerics": self.embedder.numerics,
            "attention": encoder.attention,
            "pooling": encoder.pooling,
            "prompt": inputs.prompt.name,
            "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
            "modalities": ["text"] if inputs.geometry is None else ["text", "image", "video"],
            "num_parameters": sum(each.numel() for each in parameters),
            "embedding_dimension": self.embedding_dimension,
            "batch_tokens": self.embedder.batch_tokens().default,
            "inputs": inputs.model_dump(mode="json", exclude={"prompt", "prompts"}),
            "device": str(self.embedder.device),
            "versions": package_versions(),
        }

    def close(self) -> None:
        self.embedder.close()
