"""Answers a query: encode it, look up its neighbours, say where they are.

query -> Embedder.encode(role="query") -> index.search -> list[Hit]
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmembed.search.corpus import ItemEncoder
from mmembed.search.filters import row_filter
from mmembed.search.index import Index
from mmembed.search.rows import Kind, Match
from mmembed.store.vectors import check_space

__all__ = ["Hit", "Searcher"]


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
        score: cosine of query and item.
        path: the file, absolute.
        kind: `text`, `image`, `video` or `pdf`.
        page: 1-based page of a PDF.
        start_seconds, end_seconds: the clip of a video.
        start_char, end_char: the passage of a text file.
        text: the passage, or the beginning of the page's text.
        id: the row in the index.
    """

    score: float
    path: str
    kind: Kind
    page: int | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    start_char: int | None = None
    end_char: int | None = None
    text: str | None = None
    id: str = ""

    @property
    def place(self) -> str:
        """Where in the file, for people: `page 3`, `1:30-2:00`; empty for a whole file or text."""
        if self.page is not None:
            return f"page {self.page}"
        if self.start_seconds is None or self.end_seconds is None:
            return ""
        return f"{_clock(self.start_seconds)}-{_clock(self.end_seconds)}"


class Searcher:
    """Searches an index with the model it was made with.

    Raises:
        SpaceMismatchError: the index was made with another model; both are named.
    """

    def __init__(self, embedder: ItemEncoder, index: Index) -> None:
        native = embedder.embedding_dimension
        # An index of shortened vectors is searched with equally shortened queries.
        self._truncate_dim = index.dimension if index.dimension < native else None
        check_space(
            "the index",
            (index.fingerprint, index.dimension),
            (embedder.fingerprint, self._truncate_dim or native),
        )
        self.embedder = embedder
        self.index = index

    def search(
        self,
        query: Any,
        k: int = 10,
        *,
        kinds: Collection[str] | None = None,
        instruction: str | None = None,
    ) -> list[Hit]:
        """The k best items for one query, best first.

        Args:
            query: text (a `str` is always text), an image or file as `pathlib.Path`, or any item
                that `MultimodalInput.of` takes.
            kinds: only `text`, `image`, `video` or `pdf`.
            instruction: what to look for; None leaves it to the model.

        Raises:
            InputError: the query cannot be encoded.
            ConfigError: `k` or `kinds` make no sense.
        """
        return self.search_all([query], k, kinds=kinds, instruction=instruction)[0]

    def search_all(
        self,
        queries: Sequence[Any],
        k: int = 10,
        *,
        kinds: Collection[str] | None = None,
        instruction: str | None = None,
    ) -> list[list[Hit]]:
        """`search` for many queries, encoded together; an error carries the query's index."""
        vectors = self.embedder.encode(
            list(queries),
            role="query",
            instruction=instruction,
            truncate_dim=self._truncate_dim,
            show_progress_bar=False,
        )
        found = self.index.search(np.asarray(vectors), k, where=row_filter(kinds=kinds))
        return [[_hit(match) for match in matches] for matches in found]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _hit(match: Match) -> Hit:
    row = match.row
    return Hit(
        score=match.score,
        path=row.path,
        kind=row.kind,
        page=row.page,
        start_seconds=row.start_seconds,
        end_seconds=row.end_seconds,
        start_char=row.start_char,
        end_char=row.end_char,
        text=row.text,
        id=row.id,
    )
