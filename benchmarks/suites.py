"""The suites by name: which peers they know and the cases they measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.encoding import (
    growth_cases,
    growth_notes,
    image_cases,
    page_encode_cases,
    text_cases,
)
from benchmarks.indexes import PEERS as INDEX_PEERS
from benchmarks.indexes import index_cases
from benchmarks.losses import loss_cases
from benchmarks.measurement import Case
from benchmarks.media import isolation_cases, page_cases, video_cases
from benchmarks.peers import PEERS
from benchmarks.rows import PEERS as ROW_PEERS
from benchmarks.rows import row_cases
from benchmarks.settings import Settings
from benchmarks.training import train_cases

__all__ = ["SUITES", "Suite"]


@dataclass(frozen=True)
class Suite:
    """`cases` makes its files in the given folder; one case is measured before the next is made.

    Args:
        peers: known ones; without any, ours alone is measured.
        fewer_peers: the default; None: all of them.
        notes: sentences under the table, from the record.
    """

    cases: Callable[[Settings, Path], Iterator[Case]]
    peers: tuple[str, ...] = ()
    fewer_peers: tuple[str, ...] | None = None
    notes: Callable[[Mapping[str, Any]], list[str]] = lambda record: []

    @property
    def default_peers(self) -> tuple[str, ...]:
        return self.peers if self.fewer_peers is None else self.fewer_peers


def _page_cases(settings: Settings, scratch: Path) -> Iterator[Case]:
    """Drawn beside pymupdf; through a model beside those who have one."""
    if "pymupdf" in settings.peers:
        yield from page_cases(settings, scratch)
    if set(settings.peers) & set(PEERS):
        yield from page_encode_cases(settings, scratch)


SUITES = {
    "text": Suite(text_cases, tuple(PEERS)),
    "image": Suite(image_cases, tuple(PEERS)),
    "video": Suite(video_cases, ("qwen-vl-utils",)),
    "page": Suite(_page_cases, ("pymupdf", *PEERS), fewer_peers=("pymupdf",)),
    "train": Suite(train_cases, ("sentence-transformers",)),
    "loss": Suite(loss_cases, ("sentence-transformers", "dense")),
    "isolation": Suite(isolation_cases),
    "data": Suite(row_cases, ROW_PEERS),
    "index": Suite(index_cases, INDEX_PEERS),
    "growth": Suite(growth_cases, notes=growth_notes),
}
