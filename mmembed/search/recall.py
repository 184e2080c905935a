"""How many of the true neighbours an approximate search finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mmembed.search.index import Index

__all__ = ["recall_at_10"]


def recall_at_10(index: Index, *, num_queries: int = 100, seed: int = 0) -> float:
    """The mean share of the exact ten nearest neighbours that `index.search` finds.

    Rows are drawn as queries and do not count among their own neighbours. A neighbour that is as
    near as the exact tenth counts as found.
    """
    ids = [row.id for row in index.rows()]
    if len(ids) < 2:
        return 1.0
    rng = np.random.default_rng(seed)
    chosen = [ids[place] for place in rng.permutation(len(ids))[:num_queries]]
    queries = index.vectors(chosen)
    found = index.search(queries, 11)
    shares = []
    for name, near, true in zip(chosen, found, index.search(queries, 11, exact=True), strict=True):
        scores = [match.score for match in true if match.row.id != name][:10]
        good = sum(match.score >= scores[-1] - 1e-6 for match in near if match.row.id != name)
        shares.append(min(good, len(scores)) / len(scores))
    return float(np.mean(shares))
