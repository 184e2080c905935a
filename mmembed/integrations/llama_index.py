"""LlamaIndex: `MMEmbedEmbedding` for its text and multimodal indexes.

index = VectorStoreIndex(nodes, embed_model=MMEmbedEmbedding("path/to/model"))
"""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

try:
    from llama_index.core.embeddings import MultiModalEmbedding
except ImportError:
    from mmembed.errors import MissingDependencyError

    raise MissingDependencyError("llama-index-core", "llama-index") from None
from pydantic import Field, PrivateAttr

from mmembed.encoder.embedder import Embedder
from mmembed.errors import ConfigError
from mmembed.integrations.shared_model import SharedModel
from mmembed.types import Image

__all__ = ["MMEmbedEmbedding"]


class MMEmbedEmbedding(MultiModalEmbedding):
    """Vectors of `Embedder.encode` for LlamaIndex.

    Texts and images have `role="document"`, queries `role="query"`. A `str` is text for the
    methods of texts and queries, and a path for those of images, as LlamaIndex defines them.

    Args:
        model: an `Embedder`, or a folder or hub id that is loaded when first used.
        query_instruction, document_instruction: None: the default of the model for that role.
        truncate_dim: keep the first dimensions.
        options: further arguments of `Embedder.from_pretrained`.
        fingerprint: refuse a model of any other space, for indexes that outlive this program.
    """

    model: str = Field(description="Folder or hub id.")
    query_instruction: str | None = None
    document_instruction: str | None = None
    truncate_dim: int | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    fingerprint: str | None = None
    _shared: SharedModel = PrivateAttr()

    def __init__(
        self,
        model: Embedder | str | Path,
        *,
        options: dict[str, Any] | None = None,
        fingerprint: str | None = None,
        **fields: Any,
    ) -> None:
        shared = SharedModel(model, options=options, fingerprint=fingerprint)
        if fields.get("embeddings_cache") is not None:
            raise ConfigError(
                "embeddings_cache knows a text without its role, and would give a query the vector "
                "of a document; leave it out"
            )
        fields = {"model_name": shared.name or "mmembed", **fields}
        super().__init__(
            model=shared.name, options=shared.options, fingerprint=fingerprint, **fields
        )
        self._shared = shared

    @classmethod
    def class_name(cls) -> str:
        return "MMEmbedEmbedding"

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """As the base class, and which space it is where the model was passed in loaded."""
        return {**super().to_dict(**kwargs), **self._shared.description()}

    def _documents(self, items: list[Any]) -> list[list[float]]:
        return self._shared.encode(
            items,
            role="document",
            instruction=self.document_instruction,
            truncate_dim=self.truncate_dim,
        )

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._shared.encode(
            [query],
            role="query",
            instruction=self.query_instruction,
            truncate_dim=self.truncate_dim,
        )[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._documents([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._documents(texts)

    def _get_image_embedding(self, img_file_path: str | io.BytesIO) -> list[float]:
        return self._get_image_embeddings([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list[Any]) -> list[list[float]]:
        return self._documents([Image(_image(source)) for source in img_file_paths])

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_image_embedding(self, img_file_path: str | io.BytesIO) -> list[float]:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(self, img_file_paths: list[Any]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)


def _image(source: str | Path | io.BytesIO) -> Path | bytes:
    return source.getvalue() if isinstance(source, io.BytesIO) else Path(source)
