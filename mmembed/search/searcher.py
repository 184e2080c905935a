"""Answers a query: encode it, look up its neighbours and its words, say where they are.

    query -> Embedder.encode(role="query") -> index.search      \\
          -> its text                      -> index.search_text  > fusion -> Reranker -> list[Hit]
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

import numpy as np

from mmembed.errors import ConfigError, InputError
from mmembed.search.corpus import ItemEncoder
from mmembed.search.filters import AllOf, Filter, row_filter
from mmembed.search.fusion import reciprocal_rank_fusion
from mmembed.search.index import Index
from mmembed.search.row_items import row_item
from mmembed.search.rows import Kind, Match
from mmembed.store.vectors import check_space
from mmembed.types import MultimodalInput, Text

__all__ = ["MODES", "Hit", "Mode", "PairScorer", "Searcher", "check_mode"]

Mode = Literal["vector", "text", "hybrid"]
MODES: tuple[Mode, ...] = get_args(Mode)

_FUSED = 100  # ours: how deep both rankings of a hybrid search are read


class PairScorer(Protocol):
    """The part of `Reranker` that searching needs."""

    def score(
        self,
        query: Any,
        documents: Any = None,
        *,
        instruction: str | None = None,
        show_progress_bar: bool | None = None,
        on_error: Any = "raise",
    ) -> Any: ...


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
        score: of the first stage: the cosine of query and item, BM25 of a search of words, or the
            sum of reciprocal ranks of a hybrid search.
        path: the file, absolute.
        kind: `text`, `image`, `video` or `pdf`.
        page: 1-based page of a PDF.
        start_seconds, end_seconds: the clip of a video.
        start_char, end_char: the passage of a text file.
        text: the passage, or the page's text.
        id: the row in the index.
        duration_seconds: of the whole video.
        modified: when the file was changed last, in seconds since 1970.
        rerank_score: what the reranker gave; None where it was not asked, or could not open the
            item.
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
    duration_seconds: float | None = None
    modified: float = 0.0
    rerank_score: float | None = None

    @property
    def place(self) -> str:
        """Where in the file, for people: `page 3`, `1:30-2:00`; empty for a whole file or text."""
        if self.page is not None:
            return f"page {self.page}"
        if self.start_seconds is None or self.end_seconds is None:
            return ""
        return f"{_clock(self.start_seconds)}-{_clock(self.end_seconds)}"


class Searcher:
    """Searches an index with the model it was made with, and perhaps a reranker.

    Raises:
        SpaceMismatchError: the index was made with another model; both are named.
    """

    def __init__(
        self, embedder: ItemEncoder, index: Index, *, reranker: PairScorer | None = None
    ) -> None:
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
        self.reranker = reranker

    def search(self, query: Any, k: int = 10, **options: Any) -> list[Hit]:
        """The k best items for one query, best first.

        Args:
            query: text (a `str` is always text), an image or file as `pathlib.Path`, or any item
                that `MultimodalInput.of` takes.
            options: those of `search_all`.

        Raises:
            InputError: the query cannot be encoded.
            ConfigError: an option makes no sense.
        """
        return self.search_all([query], k, **options)[0]

    def search_all(
        self,
        queries: Sequence[Any],
        k: int = 10,
        *,
        kinds: Collection[str] | None = None,
        where: Filter | None = None,
        instruction: str | None = None,
        mode: Mode = "vector",
        rerank: bool | None = None,
        rerank_depth: int = 50,
    ) -> list[list[Hit]]:
        """`search` for many queries, encoded together; an error carries the query's index.

        Args:
            kinds: only `text`, `image`, `video` or `pdf`.
            where: which rows may be found; see `row_filter`.
            instruction: what to look for; None leaves it to the model.
            mode: `vector` compares vectors, `text` looks for the query's words, `hybrid` joins
                both rankings. The latter two need a query with text.
            rerank: let the reranker order the best `rerank_depth` hits; default: when there is
                one. What it cannot open follows behind them, in its former order.
        """
        asked = list(queries)
        vectors = None
        check_mode(mode)
        if mode != "text":
            vectors = self.embedder.encode(
                asked,
                role="query",
                instruction=instruction,
                truncate_dim=self._truncate_dim,
                show_progress_bar=False,
            )
        return self.search_vectors(
            vectors,
            k,
            queries=asked,
            kinds=kinds,
            where=where,
            instruction=instruction,
            mode=mode,
            rerank=self.reranker is not None if rerank is None else rerank,
            rerank_depth=rerank_depth,
        )

    def search_vectors(
        self,
        vectors: np.ndarray | None,
        k: int = 10,
        *,
        queries: Sequence[Any] | None = None,
        kinds: Collection[str] | None = None,
        where: Filter | None = None,
        instruction: str | None = None,
        mode: Mode = "vector",
        rerank: bool = False,
        rerank_depth: int = 50,
    ) -> list[list[Hit]]:
        """`search_all` with query vectors that are there already.

        Args:
            vectors: (B, D), or (D,) for one query; not looked at in the mode `text`.
            queries: what the vectors were made of; needed for words and for reranking.
        """
        if rerank and self.reranker is None:
            raise ConfigError("rerank: this searcher has no reranker; give Searcher(reranker=...)")
        for name, count in (("k", k), ("rerank_depth", rerank_depth)):
            if count < 1:
                raise ConfigError(f"{name} is {count}; it must be at least 1")
        check_mode(mode)
        if (rerank or mode != "vector") and queries is None:
            raise ConfigError("searching words and reranking need the queries themselves")
        if kinds:
            of_kind = row_filter(kinds=kinds)
            where = of_kind if where is None else AllOf((of_kind, where))  # type: ignore[arg-type]
        depth = max(k, rerank_depth) if rerank else k
        words = [] if mode == "vector" else [_words(*asked) for asked in enumerate(queries or ())]
        if mode == "vector":
            found = self.index.search(np.asarray(vectors), depth, where=where)
        elif mode == "text":
            found = [self.index.search_text(text, depth, where=where) for text in words]
        else:
            wide = max(depth, _FUSED)
            near = self.index.search(np.asarray(vectors), wide, where=where)
            found = [
                _fused([matches, self.index.search_text(text, wide, where=where)])[:depth]
                for matches, text in zip(near, words, strict=True)
            ]
        results = [[_hit(match) for match in matches] for matches in found]
        if rerank and queries is not None:
            results = [
                self.rerank(query, hits, instruction=instruction, depth=rerank_depth)
                for query, hits in zip(queries, results, strict=True)
            ]
        return [hits[:k] for hits in results]

    def search_similar(
        self,
        row_id: str,
        k: int = 10,
        *,
        kinds: Collection[str] | None = None,
        where: Filter | None = None,
    ) -> list[Hit]:
        """The k items nearest to one of the index, without itself. Raises KeyError."""
        hits = self.search_vectors(self.index.vectors([row_id]), k + 1, kinds=kinds, where=where)[0]
        return [hit for hit in hits if hit.id != row_id][:k]

    def rerank(
        self, query: Any, hits: Sequence[Hit], *, instruction: str | None = None, depth: int = 50
    ) -> list[Hit]:
        """The first `depth` hits in the reranker's order and behind them what it could not open,
        then the rest."""
        if self.reranker is None:
            raise ConfigError("rerank: this searcher has no reranker; give Searcher(reranker=...)")
        chosen = list(hits[:depth])
        if not chosen:
            return list(hits)
        items = [row_item(row) for row in self.index.get([hit.id for hit in chosen])]
        scores = self.reranker.score(
            query, items, instruction=instruction, on_error="null", show_progress_bar=False
        )
        scored = [
            replace(hit, rerank_score=None if math.isnan(score) else float(score))
            for hit, score in zip(chosen, scores, strict=True)
        ]
        lowest = -math.inf
        scored.sort(  # stable: of equal scores the former order
            key=lambda hit: lowest if hit.rerank_score is None else hit.rerank_score, reverse=True
        )
        return [*scored, *hits[depth:]]


def check_mode(mode: str) -> None:
    """Raises ConfigError for an unknown mode of search."""
    if mode not in MODES:
        raise ConfigError(f"mode is {mode!r}; allowed: {', '.join(MODES)}")


def _words(index: int, query: Any) -> str:
    """All text of a query."""
    try:
        parts = MultimodalInput.of(query).parts
    except InputError as error:
        raise error.at(index) from None
    text = "\n".join(part.text for part in parts if isinstance(part, Text))
    if not text.strip():
        raise ConfigError(f"query {index} has no text; search it with mode='vector'")
    return text


def _fused(rankings: Sequence[Sequence[Match]]) -> list[Match]:
    rows = {match.row.id: match.row for matches in rankings for match in matches}
    order = reciprocal_rank_fusion([match.row.id for match in matches] for matches in rankings)
    return [Match(score, rows[name]) for name, score in order]


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
        duration_seconds=row.duration_seconds,
        modified=row.modified,
    )
