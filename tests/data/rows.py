"""Adapters for tests: rows of text whose documents can repeat."""

from __future__ import annotations

from mmembed.types import ContrastiveExample, MultimodalInput

__all__ = ["WordRows", "broken_rows"]


class WordRows:
    """Row i: query `q i`, document `d (i mod num_documents)`."""

    task = "retrieval"
    revision = "1"
    license = "CC0-1.0"

    def __init__(self, size: int = 10, *, num_documents: int | None = None, name: str = "words"):
        self.name = name
        self._size = size
        self._num_documents = num_documents or size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> ContrastiveExample:
        document = f"{self.name} document {index % self._num_documents}"
        return ContrastiveExample(
            query=MultimodalInput.of(f"{self.name} query {index}"),
            positives=(MultimodalInput.of(document),),
            positive_ids=(document,),
        )


def broken_rows() -> object:
    return object()
