"""Rows of a data set against the pool of documents that they may be given."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from mmembed.mining.catalogue import Catalogue
from mmembed.mining.nearest import Hidden, nearest
from mmembed.mining.vectors import TeacherVectors

__all__ = ["PoolSearch"]


class PoolSearch:
    """The nearest documents of rows that are no positives of theirs.

    Args:
        pool: documents of the row's data set, or of all.
        use_labels: documents of the row's label are positives.
        device: default: a GPU when there is one. No result depends on it.

    Attributes:
        pool: (N,) numbers of the documents, ascending.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        vectors: TeacherVectors,
        source: int,
        *,
        pool: Literal["own", "all"] = "own",
        use_labels: bool = True,
        device: str | torch.device | None = None,
    ) -> None:
        every = np.arange(len(catalogue)) if pool == "all" else catalogue.pools[source]
        self.pool: np.ndarray = every[vectors.documents_ok[every]]
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._catalogue = catalogue
        self._vectors = vectors
        self._source = source
        self._labels = catalogue.labels(source, self.pool) if use_labels else None

    def hits(self, rows: np.ndarray, depth: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """(K <= depth,) documents and scores of each row, best first."""
        data = self._catalogue.rows[self._source]
        hits = nearest(
            self._vectors.queries(self._source, rows),
            len(self.pool),
            lambda begin, end: self._vectors.documents(self.pool[begin:end]),
            k=depth,
            hidden=self._hidden(data.queries[rows], data.labels[rows]),
            device=self.device,
        )
        found = map(hits.of, range(len(rows)))
        return [(self.pool[places], scores) for places, scores in found]

    def _hidden(self, queries: np.ndarray, labels: np.ndarray) -> Hidden:
        known = [self._catalogue.known(query) for query in queries.tolist()]
        if self._labels is not None:
            known = [
                np.union1d(each, self._catalogue.of_label_too(label))
                for each, label in zip(known, labels.tolist(), strict=True)
            ]
        asked = np.repeat(np.arange(len(queries)), [len(each) for each in known])
        documents = np.concatenate([np.empty(0, dtype=np.int64), *known])
        places = np.searchsorted(self.pool, documents)
        inside = places < len(self.pool)
        inside[inside] = self.pool[places[inside]] == documents[inside]
        order = np.argsort(places[inside], kind="stable")
        asked, places = asked[inside][order], places[inside][order]
        if self._labels is None:
            return Hidden(asked, places)
        return Hidden(asked, places, labels, self._labels)
