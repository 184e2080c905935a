"""Tables of queries and pages: ColPali's training set, VisRAG, vdr-multilingual.

A row has a query and the picture of the page that answers it; it may have an answer, and the ids of
pages that do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_adapters.cells import shortened
from data_adapters.document_ids import document_id, document_ids
from data_adapters.media import media_source
from data_adapters.text.items import item, text
from data_adapters.text.tables import Selected, open_split, saved_array, scanned
from mmembed.datasets import DatasetCard, ExampleRows
from mmembed.errors import ConfigError, InputError
from mmembed.tables.examples import TableRows
from mmembed.tables.rows import RowTable
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Text

__all__ = ["load"]


def load(
    card: DatasetCard,
    folder: Path,
    direction: str = "t2i",
    query: str = "query",
    image: str = "image",
    answer: str = "answer",
    page_id: str = "",
    negatives: str = "",
    source: str = "",
    sources: Sequence[str] = (),
    max_negatives: int | None = None,
) -> ExampleRows:
    """A row for each query; rows without one, which only bring a page, are left out, under `qa`
    also those without an answer.

    Args:
        direction: `t2i`: the query asks for the page; `qa`: page and query ask for the answer.
        query, image, answer: columns.
        page_id: column that names the page, so that its picture is not read to tell two apart.
        negatives: column with a list of such names.
        source, sources: column and which of its values are kept; all of them if empty.
        max_negatives: of each row, the first ones.
    """
    if direction not in ("t2i", "qa"):
        raise ConfigError(f"direction {direction!r} is unknown; known: t2i, qa")
    kept = tuple(sources)
    if kept and not source:
        raise ConfigError("sources needs source, the column that they stand in")
    needed = (query, answer) if direction == "qa" else (query,)
    columns = [*needed, *filter(None, (source if kept else "", page_id, negatives))]
    small = open_split(card, folder, columns=columns)
    rows = _chosen(small, needed, source, kept)
    page_of = _Pages(open_split(card, folder, columns=[image]), image, small, page_id)

    def parse(row: dict[str, Any], where: str) -> ContrastiveExample:
        number = row[_NUMBER]
        asked = text(row.get(query), query, where)
        page = Image(page_of.picture(number, folder, where))
        if direction == "qa":
            said = (item(text(row.get(answer), answer, where)),)
            return ContrastiveExample(
                MultimodalInput((page, Text(asked))),
                said,
                task=card.task,
                positive_ids=document_ids(said),
            )
        shown = MultimodalInput((page,))
        name = row.get(page_id) if page_id else None
        listed = row.get(negatives) if negatives else None
        others = page_of.numbers(listed, name, max_negatives, where)
        pictures = [Image(page_of.picture(other, folder, where)) for other in others]
        return ContrastiveExample(
            item(asked),
            (shown,),
            tuple(MultimodalInput((picture,)) for picture in pictures),
            task=card.task,
            positive_ids=(label(row, shown),),
        )

    def label(row: dict[str, Any], shown: MultimodalInput) -> str:
        name = row.get(page_id) if page_id else None
        return f"{card.repo or card.name}/{name}" if name else document_id(shown, folder)

    planned: Callable[[dict[str, Any]], tuple[str, ...]] | None = None
    if page_id and direction == "t2i":

        def planned(row: dict[str, Any]) -> tuple[str, ...]:
            if row.get(page_id):
                return (label(row, MultimodalInput(())),)
            page = Image(page_of.picture(row[_NUMBER], folder, f"row {row[_NUMBER]}"))
            return (label(row, MultimodalInput((page,))),)

    return TableRows(card, _Numbered(small, rows), parse, document_ids=planned)


_NUMBER = "\0number"


class _Numbered(Selected):
    """Chosen rows that know their number in the files."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**super().__getitem__(index), _NUMBER: int(self.numbers[index])}

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        found = super().take(indices)
        return [
            {**row, _NUMBER: int(self.numbers[index])}
            for row, index in zip(found, indices, strict=True)
        ]


class _Pages:
    """Pictures of pages by their place in the files, and places by the name of the page."""

    def __init__(self, table: RowTable, image: str, named: RowTable, page_id: str) -> None:
        self._table, self._image, self._named, self._page_id = table, image, named, page_id
        self._places: dict[Any, int] | None = None

    def picture(self, number: int, folder: Path, where: str) -> Path | bytes:
        return media_source(self._table[number].get(self._image), folder, where=where)

    def numbers(self, names: Any, own: Any, most: int | None, where: str) -> list[int]:
        """Places of the first `most` of these pages, without the positive, which is `own`."""
        if names is None:
            return []
        if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
            raise InputError(
                "invalid_type",
                f"{where}: negatives are {shortened(names)}; expected a list of names of pages",
            )
        if self._places is None:
            cells = (
                (number, row and row.get(self._page_id)) for number, row in scanned(self._named)
            )
            self._places = {name: number for number, name in cells if isinstance(name, str | int)}
        unknown = [name for name in names if name not in self._places]
        if unknown:
            raise InputError(
                "not_found", f"{where}: no page is called {shortened(unknown[0])}, a negative"
            )
        return [self._places[name] for name in names if name != own][:most]


def _chosen(
    table: RowTable, needed: Sequence[str], source: str, kept: tuple[str, ...]
) -> np.ndarray:
    def is_kept(row: Mapping[str, Any] | None) -> bool:
        if row is None:
            return True  # reading it says why it cannot be used
        is_whole = all(row.get(column) is not None for column in needed)
        return is_whole and (not kept or row.get(source) in kept)

    return saved_array(
        [table],
        f"pages with {needed}, {source} {kept}",
        lambda: np.asarray([n for n, row in scanned(table) if is_kept(row)], np.int64),
    )
