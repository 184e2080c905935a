"""Which documents belong to a query, an id, a whole or a label, in flat arrays."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

__all__ = ["Groups", "first_labels"]


class Groups:
    """Members of numbered groups in two flat arrays."""

    def __init__(self, groups: array[int], members: array[int]) -> None:
        numbers = np.array(groups, dtype=np.int64)
        order = np.argsort(numbers, kind="stable")
        self._numbers = numbers[order]
        self._members = np.array(members, dtype=np.int64)[order]

    def of(self, group: int) -> np.ndarray:
        begin, end = np.searchsorted(self._numbers, [group, group + 1])
        return self._members[begin:end]


def first_labels(
    pools: Sequence[np.ndarray],
    sources: Sequence[int],
    labels: array[int],
    documents: array[int],
) -> tuple[list[np.ndarray], Groups]:
    """Label of each document of each pool, and (label, document) of those that have several.

    Args:
        sources: data set of each label.
        labels, documents: all pairs, in the order of the rows.
    """
    numbers, named = np.array(labels, dtype=np.int64), np.array(documents, dtype=np.int64)
    of_source = np.array(sources, dtype=np.int64)[numbers]
    found, second = [], (array("q"), array("q"))
    for source, pool in enumerate(pools):
        here, of_pool = numbers[of_source == source], named[of_source == source]
        places = np.searchsorted(pool, of_pool)
        first = np.full(len(pool), -1, dtype=np.int64)
        first[places[::-1]] = here[::-1]  # what is written last stays: the first
        is_second = first[places] != here
        second[0].extend(here[is_second].tolist())
        second[1].extend(of_pool[is_second].tolist())
        found.append(first)
    return found, Groups(*second)
