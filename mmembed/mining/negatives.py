"""The hard negatives of one row: its own, those of its siblings, hits, and random documents.

hits of a query, vectors, scores of positives -> RowMiner.mine -> Mined
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mmembed.config.mining import MiningConfig
from mmembed.mining.catalogue import Catalogue
from mmembed.mining.nearest import cosines
from mmembed.mining.selection import Bounds, row_problem, select
from mmembed.mining.vectors import TeacherVectors
from mmembed.store.content import Digest

__all__ = ["Mined", "Negative", "RowMiner"]

Origin = Literal["own", "sibling", "hit", "random"]

_TRIES = 20  # random draws for each document that is missing
_ASKED = 64  # queries of a document that are looked at, the first


@dataclass(frozen=True)
class Negative:
    """A document that a row gets.

    Attributes:
        rank: among the documents that are no positive, from 1; None of what was not searched.
        score: cosine with the query.
    """

    document: int
    origin: Origin
    score: float
    rank: int | None = None


@dataclass
class Mined:
    """What became of a row.

    Attributes:
        problem: why the row is dropped; None: it is kept.
        removed: reason -> hits within the ranks that were not taken for it.
    """

    negatives: list[Negative] = field(default_factory=list)
    problem: str | None = None
    removed: Counter[str] = field(default_factory=Counter)


class RowMiner:
    """Chooses for the rows of one data set. What a row gets depends on nothing but its number.

    Args:
        pool: documents that hits and random ones are from.
        bounds: of the data set.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        vectors: TeacherVectors,
        source: int,
        config: MiningConfig,
        *,
        pool: np.ndarray,
        bounds: Bounds,
        seed: int,
        digest: Digest,
    ) -> None:
        self.catalogue = catalogue
        self.vectors = vectors
        self.source = source
        self.config = config
        self.pool = pool
        self.bounds = bounds
        self.digest = digest
        self._seed = [seed, zlib.crc32(catalogue.opened[source].name.encode())]
        self._rows = catalogue.rows[source]

    def hidden(self, row: int) -> np.ndarray:
        """Documents that are no negatives of a row, apart from those of its label."""
        return self.catalogue.known(int(self._rows.queries[row]))

    def mine(
        self,
        row: int,
        query: np.ndarray,
        hits: np.ndarray,
        hit_scores: np.ndarray,
        positive_scores: np.ndarray,
    ) -> Mined:
        """Choose the negatives of a row.

        Args:
            query: (D,) its vector.
            hits, hit_scores: (K,) documents of the pool, best first, without hidden ones.
            positive_scores: (P,) of the row.
        """
        config = self.config
        mined = Mined(problem=row_problem(positive_scores, hit_scores, config, self.bounds))
        if mined.problem is not None:
            return mined
        rng = np.random.default_rng([*self._seed, row])
        positives = self._rows.positives.of(row)
        hidden = {*self.hidden(row).tolist()}
        chosen = self._own(row, query) if config.keep_negatives else []
        if config.siblings:
            taken = hidden | {each.document for each in chosen}
            chosen += self._siblings(row, query, positives, taken, config.num_negatives)
        taken = {each.document for each in chosen}
        free = np.array([document not in taken for document in hits.tolist()], dtype=bool)
        hits, hit_scores = hits[free], hit_scores[free]
        similarity = query_similarity = None
        if config.max_similarity is not None:
            similarity = self._similarity(hits, positives)
        if config.max_query_similarity is not None:
            query_similarity = self._query_similarity(query, hits)
        selection = select(
            hit_scores,
            positive_scores,
            config,
            bounds=self.bounds,
            similarity=similarity,
            query_similarity=query_similarity,
            wanted=max(0, config.num_negatives - len(chosen)),
            rng=rng,
        )
        mined.removed.update(selection.removed)
        for place in selection.taken.tolist():
            score = float(hit_scores[place])
            chosen.append(Negative(int(hits[place]), "hit", score, place + 1))
        if config.top_up and len(chosen) < config.num_negatives:
            taken = hidden | {each.document for each in chosen}
            chosen += self._random(row, query, taken, config.num_negatives - len(chosen), rng)
        if config.drop_short and len(chosen) < config.num_negatives:
            mined.problem = "drop_short"
        mined.negatives = chosen
        return mined

    def _own(self, row: int, query: np.ndarray) -> list[Negative]:
        example = self.catalogue.example(self.source, row)
        numbers = [self.catalogue.number(item, self.digest) for item in example.hard_negatives]
        known = [n for n in dict.fromkeys(numbers) if n is not None]
        return self._scored("own", [n for n in known if self.vectors.documents_ok[n]], query)

    def _siblings(
        self, row: int, query: np.ndarray, positives: np.ndarray, taken: set[int], wanted: int
    ) -> list[Negative]:
        """Nearest first, without those that show the same as a positive."""
        whole = int(self._rows.siblings[row])
        if whole < 0:
            return []
        found = self.catalogue.siblings(whole)
        found = found[self.vectors.documents_ok[found] & ~self._of_label(row, found)]
        found = np.array([n for n in found.tolist() if n not in taken], dtype=np.int64)
        if self.config.max_similarity is not None and len(found):
            found = found[self._similarity(found, positives) <= self.config.max_similarity]
        if self.config.max_query_similarity is not None and len(found):
            near = self._query_similarity(query, found)
            found = found[near <= self.config.max_query_similarity]
        scored = self._scored("sibling", found.tolist(), query)
        return sorted(scored, key=lambda each: (-each.score, each.document))[:wanted]

    def _random(
        self,
        row: int,
        query: np.ndarray,
        taken: set[int],
        wanted: int,
        rng: np.random.Generator,
    ) -> list[Negative]:
        found: dict[int, None] = {}
        if not len(self.pool):
            return []
        for place in rng.integers(len(self.pool), size=_TRIES * wanted).tolist():
            document = int(self.pool[place])
            if len(found) < wanted and document not in taken:
                if not self._of_label(row, self.pool[place : place + 1])[0]:
                    found[document] = None
        return self._scored("random", list(found), query)

    def _of_label(self, row: int, documents: np.ndarray) -> np.ndarray:
        """Which documents have the row's label."""
        label = int(self._rows.labels[row]) if self.config.use_labels else -1
        if label < 0:
            return np.zeros(len(documents), dtype=bool)
        same: np.ndarray = self.catalogue.labels(self.source, documents) == label
        return same | np.isin(documents, self.catalogue.of_label_too(label))

    def _similarity(self, documents: np.ndarray, positives: np.ndarray) -> np.ndarray:
        """(K,) cosine of each document to the nearest positive."""
        if not len(documents):
            return np.empty(0, dtype=np.float32)
        found = cosines(self.vectors.documents(documents), self.vectors.documents(positives))
        near: np.ndarray = found.max(axis=1)
        return near

    def _query_similarity(self, query: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """(K,) cosine of the query to the nearest query that each document is a positive of; -1
        where there is none."""
        near = np.full(len(documents), -1, dtype=np.float32)
        asked = [self.catalogue.asked_by(document)[:_ASKED] for document in documents.tolist()]
        places = np.concatenate([np.empty((0, 2), dtype=np.int64), *asked])
        of_document = np.repeat(np.arange(len(documents)), [len(each) for each in asked])
        for source in np.unique(places[:, 0]).tolist():
            here = np.flatnonzero(places[:, 0] == source)
            here = here[self.vectors.queries_ok[source][places[here, 1]]]
            found = cosines(self.vectors.queries(source, places[here, 1]), query[None])[:, 0]
            np.maximum.at(near, of_document[here], found)
        return near

    def _scored(
        self, origin: Origin, documents: Sequence[int], query: np.ndarray
    ) -> list[Negative]:
        if not documents:
            return []
        rows = self.vectors.documents(np.array(documents, dtype=np.int64))
        scores = cosines(rows, query[None])[:, 0].tolist()
        return [Negative(d, origin, s) for d, s in zip(documents, scores, strict=True)]
