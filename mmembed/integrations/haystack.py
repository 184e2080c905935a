"""Haystack: `MMEmbedTextEmbedder` for queries and `MMEmbedDocumentEmbedder` for documents.

pipeline.add_component("embedder", MMEmbedDocumentEmbedder("path/to/model"))

Haystack reads a pipeline that was written to a file with
`Pipeline.loads(text, allowed_modules=["mmembed.integrations.haystack"])`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.dataclasses import ByteStream
except ImportError:
    from mmembed.errors import MissingDependencyError

    raise MissingDependencyError("haystack-ai", "haystack") from None

from mmembed.encoder.embedder import Embedder
from mmembed.errors import ConfigError, InputError
from mmembed.integrations.shared_model import SharedModel
from mmembed.sources import sniff_media
from mmembed.types import Image, MultimodalInput, Page, Part, Text, Video

__all__ = ["MMEmbedDocumentEmbedder", "MMEmbedTextEmbedder"]


@component
class MMEmbedTextEmbedder:
    """A query's vector: a text, an image, or both as one query.

    Args:
        model: an `Embedder`, or a folder or hub id that is loaded by `warm_up` or the first run.
        instruction: None: the default of the model for queries.
        truncate_dim: keep the first dimensions.
        options: further arguments of `Embedder.from_pretrained`.
        fingerprint: refuse a model of any other space, for stores that outlive this program.
    """

    def __init__(
        self,
        model: Embedder | str | Path,
        *,
        instruction: str | None = None,
        truncate_dim: int | None = None,
        options: Mapping[str, Any] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self._model = SharedModel(model, options=options, fingerprint=fingerprint)
        self.instruction = instruction
        self.truncate_dim = truncate_dim

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` takes; holds no weights."""
        return default_to_dict(
            self,
            **self._model.description(),
            instruction=self.instruction,
            truncate_dim=self.truncate_dim,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> MMEmbedTextEmbedder:
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Load the model."""
        _ = self._model.embedder

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    def run(self, text: str | None = None, image: ByteStream | None = None) -> dict[str, Any]:
        """
        Raises:
            ConfigError: neither text nor image, or values of another type.
            InputError: the image cannot be read.
        """
        if not isinstance(text, str | None) or not isinstance(image, ByteStream | None):
            raise ConfigError(
                "MMEmbedTextEmbedder takes a str as text and a ByteStream as image; documents "
                "are for MMEmbedDocumentEmbedder"
            )
        parts: list[Part] = [] if image is None else [Image(image.data)]
        if text is not None:
            parts.append(Text(text))
        if not parts:
            raise ConfigError("MMEmbedTextEmbedder was given neither text nor image")
        (embedding,) = self._model.encode(
            [MultimodalInput(tuple(parts))],
            role="query",
            instruction=self.instruction,
            truncate_dim=self.truncate_dim,
        )
        return {"embedding": embedding, "meta": {"model": self._model.name}}

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    async def run_async(
        self, text: str | None = None, image: ByteStream | None = None
    ) -> dict[str, Any]:
        return await asyncio.to_thread(self.run, text, image)


@component
class MMEmbedDocumentEmbedder:
    """Documents with their vectors.

    A document is its `blob` (an image, a clip or a PDF: the content decides) followed by its
    `content`. One with neither is the file that `meta[file_path_meta_field]` names, of a PDF the
    page `meta["page_number"]` where that is set. `content` is always text.

    Args:
        model: an `Embedder`, or a folder or hub id that is loaded by `warm_up` or the first run.
        instruction: None: the default of the model for documents.
        truncate_dim: keep the first dimensions.
        file_path_meta_field: where a document without content names its file.
        meta_fields_to_embed: written in front of `content`, joined by `embedding_separator`.
        options: further arguments of `Embedder.from_pretrained`.
        fingerprint: refuse a model of any other space, for stores that outlive this program.
    """

    def __init__(
        self,
        model: Embedder | str | Path,
        *,
        instruction: str | None = None,
        truncate_dim: int | None = None,
        file_path_meta_field: str = "file_path",
        meta_fields_to_embed: Sequence[str] = (),
        embedding_separator: str = "\n",
        options: Mapping[str, Any] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self._model = SharedModel(model, options=options, fingerprint=fingerprint)
        self.instruction = instruction
        self.truncate_dim = truncate_dim
        self.file_path_meta_field = file_path_meta_field
        self.meta_fields_to_embed = list(meta_fields_to_embed)
        self.embedding_separator = embedding_separator

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` takes; holds no weights."""
        return default_to_dict(
            self,
            **self._model.description(),
            instruction=self.instruction,
            truncate_dim=self.truncate_dim,
            file_path_meta_field=self.file_path_meta_field,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> MMEmbedDocumentEmbedder:
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Load the model."""
        _ = self._model.embedder

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """
        Raises:
            InputError: a document that cannot be embedded, by its number.
        """
        if not isinstance(documents, list) or not all(
            isinstance(document, Document) for document in documents
        ):
            raise ConfigError(
                "MMEmbedDocumentEmbedder takes a list of Documents; a query is for "
                "MMEmbedTextEmbedder"
            )
        vectors = self._model.encode(
            [self._item(number, document) for number, document in enumerate(documents)],
            role="document",
            instruction=self.instruction,
            truncate_dim=self.truncate_dim,
        )
        embedded = [
            replace(document, embedding=vector)
            for document, vector in zip(documents, vectors, strict=True)
        ]
        return {"documents": embedded, "meta": {"model": self._model.name}}

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        return await asyncio.to_thread(self.run, documents)

    def _item(self, number: int, document: Document) -> MultimodalInput:
        parts: list[Part] = []
        path = document.meta.get(self.file_path_meta_field)
        if document.blob is not None:
            parts.append(_medium(number, document.blob.data))
        elif document.content is None:
            if not isinstance(path, str | Path) or not str(path):
                raise InputError(
                    "empty",
                    "the document has neither content nor blob, and "
                    f"meta[{self.file_path_meta_field!r}] names no file",
                    index=number,
                )
            page = document.meta.get("page_number")
            (part,) = MultimodalInput.of(Path(path)).parts
            if isinstance(part, Page) and page is not None:
                part = Page(part.source, pages=str(page))
            parts.append(part)
        told = [
            str(document.meta[name])
            for name in self.meta_fields_to_embed
            if document.meta.get(name) is not None
        ]
        if document.content is not None:
            told.append(document.content)
        if told:
            parts.append(Text(self.embedding_separator.join(told)))
        return MultimodalInput(tuple(parts))


def _medium(number: int, data: bytes) -> Part:
    kind = sniff_media(data)
    if kind is None:
        raise InputError(
            "unsupported_format",
            "the document's blob is no image, clip or PDF; give text as content",
            index=number,
        )
    return {"image": Image, "video": Video, "pdf": Page}[kind](data)
