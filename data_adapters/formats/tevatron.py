"""Tevatron's rows: passages in the row, or ids of documents in a corpus.

Layout: texttron/tevatron, src/tevatron/retriever/dataset.py. With passages: `query_id`, `query`,
`positive_passages` and `negative_passages` of `{docid, title, text}`; title and text are joined by
a space. With ids: `query_id`, `query_text`, `query_image`, `query_video`, `positive_document_ids`,
`negative_document_ids`, and a corpus of `docid`, `text`, `image`, `video`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_adapters.cells import shortened
from data_adapters.formats.rows import FormatRows, media_part
from mmembed.errors import ConfigError, InputError
from mmembed.tables.files import table_files
from mmembed.tables.opening import open_table
from mmembed.tables.rows import RowTable
from mmembed.types import ContrastiveExample, MultimodalInput, Part, Task, Text

__all__ = ["Tevatron"]


class Tevatron(FormatRows):
    """Both kinds of rows. Ids of documents become `positive_ids`.

    Args:
        corpus: the table of documents, for rows that name them by id. Its ids are held in memory.
        separator: between title and text of a document.
        media_root: also of the media of the corpus.

    Raises:
        ConfigError: the rows name documents, and there is no corpus.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        corpus: str | Path | None = None,
        separator: str = " ",
        task: Task | None = None,
        media_root: str | Path | None = None,
        name: str | None = None,
        split: str = "train",
    ) -> None:
        super().__init__(path, task=task, media_root=media_root, name=name, split=split)
        self._separator = separator
        self._corpus = None if corpus is None else _Corpus(table_files(corpus, split))
        if self._corpus is None and "positive_document_ids" in self.table.columns:
            raise ConfigError(
                f"{path}: its rows name documents by id; say where those are: corpus=FILE"
            )
        self.document_ids = self._document_ids

    @classmethod
    def matches(cls, columns: Sequence[str], row: Mapping[str, Any]) -> bool:
        return "positive_passages" in columns or "positive_document_ids" in columns

    def parse(self, row: dict[str, Any]) -> ContrastiveExample:
        named = row.get("positive_document_ids") is not None
        column = "document_ids" if named else "passages"
        documents: dict[str, list[MultimodalInput]] = {}
        for side in ("positive", "negative"):
            cells = row.get(f"{side}_{column}")
            cells = [] if cells is None else cells
            if not isinstance(cells, list):
                raise InputError(
                    "invalid_type", f"{side}_{column}: found {shortened(cells)}; expected a list"
                )
            places = [f"{side}_{column}[{number}]" for number in range(len(cells))]
            make = self._named if named else self._passage
            documents[side] = [make(cell, at) for cell, at in zip(cells, places, strict=True)]
        if not documents["positive"]:
            raise InputError("empty", f"no positive_{column}; found {', '.join(row)}")
        return ContrastiveExample(
            query=self._query(row),
            positives=tuple(documents["positive"]),
            hard_negatives=tuple(documents["negative"]),
            task=self.task,
            query_id="" if row.get("query_id") is None else str(row["query_id"]),
            positive_ids=_ids(row),
        )

    def _document_ids(self, index: int) -> tuple[str, ...]:
        """Of a row without ids what its passages say; of a bad row nothing."""
        try:
            row = self.table[index]
        except InputError:
            return ()
        passages = row.get("positive_passages")
        return _ids(row) or tuple(map(repr, passages if isinstance(passages, list) else ()))

    def _query(self, row: Mapping[str, Any]) -> MultimodalInput:
        cells = {"text": row.get("query_text") or row.get("query")}
        cells |= {kind: row.get(f"query_{kind}") for kind in ("image", "video", "audio")}
        return self._item(cells, "query")

    def _passage(self, cell: Any, place: str) -> MultimodalInput:
        if not isinstance(cell, Mapping):
            raise InputError(
                "invalid_type", f"{place}: found {shortened(cell)}; expected docid, title and text"
            )
        return self._item(cell, place)

    def _named(self, cell: Any, place: str) -> MultimodalInput:
        assert self._corpus is not None
        return self._item(self._corpus.document(str(cell), place), place)

    def _item(self, cells: Mapping[str, Any], place: str) -> MultimodalInput:
        """Media first, then title and text."""
        if cells.get("audio") is not None:
            raise InputError("unsupported_format", f"{place}: sound is not supported")
        parts: list[Part] = []
        try:
            if cells.get("video"):
                parts.append(media_part("video", cells["video"], self.media_root))
            if cells.get("image"):
                parts.append(media_part("image", cells["image"], self.media_root))
        except InputError as error:
            raise InputError(error.code, f"{place}: {error.detail}") from None
        words = [cells.get("title"), cells.get("text")]
        if not all(word is None or isinstance(word, str) for word in words):
            raise InputError("invalid_type", f"{place}: found {shortened(words)}; expected texts")
        text = self._separator.join(word for word in words if word)
        if text:
            parts.append(Text(text))
        if not parts:
            raise InputError("empty", f"{place}: neither text nor media")
        return MultimodalInput(tuple(parts))


class _Corpus:
    """Documents by id."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._table: RowTable = open_table(files)
        self._file = files[0].name
        ids = open_table(files, columns=("docid",))
        self._rows: dict[str, int] = {}
        for index in range(len(ids)):
            try:
                self._rows[str(ids[index]["docid"])] = index
            except InputError:  # it is named by the rows that need it
                continue

    def document(self, docid: str, place: str) -> Mapping[str, Any]:
        row = self._rows.get(docid)
        if row is None:
            raise InputError("not_found", f"{place}: {self._file} has no document {docid!r}")
        return self._table[row]


def _ids(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Of the positives; () unless each has one."""
    ids = row.get("positive_document_ids")
    if ids is None:
        passages = row.get("positive_passages")
        passages = passages if isinstance(passages, list) else []
        ids = [each.get("docid") if isinstance(each, Mapping) else None for each in passages]
    if not isinstance(ids, list) or any(each is None for each in ids):
        return ()
    return tuple(map(str, ids))
