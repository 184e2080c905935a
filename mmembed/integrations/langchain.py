"""LangChain: `MMEmbedEmbeddings` for its vector stores, `MMEmbedRetriever` over an index of ours.

store = InMemoryVectorStore(MMEmbedEmbeddings("path/to/model"))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
except ImportError:
    from mmembed.errors import MissingDependencyError

    raise MissingDependencyError("langchain-core", "langchain") from None
from pydantic import Field

from mmembed.encoder.embedder import Embedder
from mmembed.integrations.shared_model import SharedModel
from mmembed.types import Image

__all__ = ["MMEmbedEmbeddings", "MMEmbedRetriever"]


class MMEmbedEmbeddings(Embeddings):
    """Vectors of `Embedder.encode` for LangChain.

    Documents have `role="document"`, queries `role="query"`. A `str` is always text; where the
    caller is not limited to texts, other items of `Embedder.encode` are taken too.

    Args:
        model: an `Embedder`, or a folder or hub id that is loaded when first used.
        query_instruction, document_instruction: None: the default of the model for that role.
        truncate_dim: keep the first dimensions.
        options: further arguments of `Embedder.from_pretrained`.
        fingerprint: refuse a model of any other space, for stores that outlive this program.
    """

    def __init__(
        self,
        model: Embedder | str | Path,
        *,
        query_instruction: str | None = None,
        document_instruction: str | None = None,
        truncate_dim: int | None = None,
        options: Mapping[str, Any] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self._model = SharedModel(model, options=options, fingerprint=fingerprint)
        self.query_instruction = query_instruction
        self.document_instruction = document_instruction
        self.truncate_dim = truncate_dim

    def embed_documents(self, texts: Sequence[Any]) -> list[list[float]]:
        return self._model.encode(
            texts,
            role="document",
            instruction=self.document_instruction,
            truncate_dim=self.truncate_dim,
        )

    def embed_query(self, text: Any) -> list[float]:
        return self._model.encode(
            [text], role="query", instruction=self.query_instruction, truncate_dim=self.truncate_dim
        )[0]

    def embed_image(self, uris: Sequence[str | Path]) -> list[list[float]]:
        """Image files as documents: what stores with `add_images` call."""
        return self.embed_documents([Image(Path(uri)) for uri in uris])


class MMEmbedRetriever(BaseRetriever):
    """The files, pages and clips of an index of `mmembed index`, best first.

    A document's `page_content` is the text of the passage or page (empty for pictures and clips)
    and its `metadata` says where it is: `source`, `kind`, `page`, `start_seconds`, `score`, ...

    Args:
        searcher: a `Searcher`.
        k: how many.
        search_options: further arguments of `Searcher.search`.
    """

    searcher: Any
    k: int = 10
    search_options: dict[str, Any] = Field(default_factory=dict)

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        hits = self.searcher.search(query, self.k, **self.search_options)
        return [_document(hit) for hit in hits]


def _document(hit: Any) -> Document:
    told = {name: value for name, value in vars(hit).items() if value is not None}
    told["source"] = told.pop("path")
    return Document(id=told.pop("id"), page_content=told.pop("text", ""), metadata=told)
