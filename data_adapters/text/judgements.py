"""A corpus, queries and judgements that name both by id: BEIR, TREC, MS MARCO and their like.

The tables are joined once into numbers of rows, which are kept in the user's cache; texts are
looked up when a row is asked for, so that memory is that of the judgements alone. Judgements of 0
are hard negatives, and so are mined ones where a source has them.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from data_adapters.text.items import drawn, example, item, number, text, titled
from data_adapters.text.tables import beside, open_files, saved_array, scanned, table_files
from mmembed.datasets import DatasetCard
from mmembed.errors import ConfigError, DataError, InputError
from mmembed.tables.rows import RowTable
from mmembed.types import ContrastiveExample

__all__ = ["LAYOUTS", "JudgedRows", "Layout", "Part", "load"]


@dataclass(frozen=True)
class Part:
    """One of the tables of a layout.

    Attributes:
        patterns: of its files, with `{config}` and `{split}` of the card; the first that is there.
        names: of the columns, where files have no header.
        columns: of the id and the text, or of query, document and grade.
        repo: where it is, if not in the repository of the card.
    """

    patterns: tuple[str, ...]
    columns: tuple[str, ...]
    names: tuple[str, ...] | None = None
    title: str = ""
    repo: str = ""


@dataclass(frozen=True)
class Layout:
    corpus: Part
    queries: Part
    judgements: Part
    mined: Part | None = None


_TEXTS = ("id", "text")
_TREC = ("query", "iteration", "document", "grade")
_JUDGED = ("query", "document", "grade")
_BEIR = ("query-id", "corpus-id", "score")

LAYOUTS: Mapping[str, Layout] = {
    "beir": Layout(
        corpus=Part(
            ("corpus.jsonl", "corpus.jsonl.gz", "corpus/*.parquet"), ("_id", "text"), title="title"
        ),
        queries=Part(("queries.jsonl", "queries.jsonl.gz", "queries/*.parquet"), ("_id", "text")),
        judgements=Part(
            (
                "qrels/{split}.tsv",
                "qrels/{split}.jsonl",
                "qrels/{split}-*.parquet",
                "data/{split}-*.parquet",
            ),
            _BEIR,
        ),
    ),
    "msmarco": Layout(
        corpus=Part(("collection.tsv",), _TEXTS, _TEXTS),
        queries=Part(("queries.{split}.tsv",), _TEXTS, _TEXTS),
        judgements=Part(("qrels.{split}.tsv",), _JUDGED, _TREC),
    ),
    "mmarco": Layout(
        corpus=Part(("data/google/collections/{config}_collection.tsv",), _TEXTS, _TEXTS),
        queries=Part(("data/google/queries/{split}/{config}_queries.{split}.tsv",), _TEXTS, _TEXTS),
        judgements=Part(("qrels.{split}.tsv",), _JUDGED, _TREC),
    ),
    "miracl": Layout(
        corpus=Part(
            ("miracl-corpus-v1.0-{config}/docs-*.jsonl.gz",),
            ("docid", "text"),
            title="title",
            repo="miracl/miracl-corpus",
        ),
        queries=Part(
            ("miracl-v1.0-{config}/topics/topics.miracl-v1.0-{config}-{split}.tsv",),
            _TEXTS,
            _TEXTS,
        ),
        judgements=Part(
            ("miracl-v1.0-{config}/qrels/qrels.miracl-v1.0-{config}-{split}.tsv",), _JUDGED, _TREC
        ),
    ),
    "multi-cpr": Layout(
        corpus=Part(("data/{config}/corpus.tsv",), _TEXTS, _TEXTS),
        queries=Part(("data/{config}/{split}.query.txt",), _TEXTS, _TEXTS),
        judgements=Part(("data/{config}/qrels.{split}.tsv",), _JUDGED, _TREC),
    ),
    "t2ranking": Layout(
        corpus=Part(("data/collection.tsv",), _TEXTS, _TEXTS),
        queries=Part(("data/queries.{split}.tsv",), _TEXTS, _TEXTS),
        judgements=Part(
            ("data/qrels.retrieval.{split}.tsv",), ("query", "document"), ("query", "document")
        ),
        mined=Part(
            ("data/{split}.mined.tsv",),
            ("query", "document"),
            ("query", "document", "rank", "score"),
        ),
    ),
}
_HEADERS = {"qid", "query-id", "query_id", "query"}


def load(
    card: DatasetCard,
    folder: Path,
    *,
    layout: str = "beir",
    separator: str = " ",
    mined: bool = False,
    num_hard_negatives: int | None = None,
    seed: int = 0,
) -> JudgedRows:
    """Queries with the documents that were judged.

    Args:
        layout: a name of `LAYOUTS`.
        separator: between title and text.
        mined: also read the negatives that the source has mined.
        num_hard_negatives: of a query; None = all.
        seed: of their choice.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"layout is {layout!r}; it must be one of: {', '.join(LAYOUTS)}")
    plan = LAYOUTS[layout]
    if mined and plan.mined is None:
        raise ConfigError(f"mined: the layout {layout!r} has no mined negatives")
    corpus = _open(card, folder, plan.corpus)
    queries = _open(card, folder, plan.queries)
    judged = _open(card, folder, plan.judgements)
    tables = [corpus, queries, judged]
    sources = [(judged, plan.judgements)]
    if mined and plan.mined:
        tables.append(_open(card, folder, plan.mined))
        sources.append((tables[-1], plan.mined))

    def join() -> np.ndarray:
        documents = _Ids(corpus, plan.corpus.columns[0])
        return _joined(sources, _Ids(queries, plan.queries.columns[0]), documents)

    joined = saved_array(tables, f"joined {layout}", join)
    return JudgedRows(
        card,
        tables,
        joined,
        plan,
        separator=separator,
        num_hard_negatives=num_hard_negatives,
        seed=seed,
    )


def _open(card: DatasetCard, folder: Path, part: Part) -> RowTable:
    place = beside(folder, part.repo) if part.repo else folder
    files = table_files(card, place, part.patterns) if place else []
    if not files:
        sought = " or ".join(part.patterns).format(config=card.config, split=card.split)
        raise DataError(f"data set {card.name!r}: {place or part.repo} has not {sought}")
    columns = [*part.columns, *([part.title] if part.title else [])]
    return open_files(files, columns, part.names)


def _hash(name: Any) -> int:
    """62 bits: those of an id, and never negative. Numbers are ids as their digits."""
    return (
        int.from_bytes(
            blake2b(str(name).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
        )
        >> 2
    )


class _Ids:
    """Rows by id. Memory: 16 bytes for each row, while tables are joined."""

    def __init__(self, table: RowTable, column: str) -> None:
        names, rows = array("q"), array("q")
        for n, row in scanned(table):
            if row is not None:
                names.append(_hash(row[column]))
                rows.append(n)
        hashes = np.frombuffer(names, dtype=np.int64)
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._rows = np.frombuffer(rows, dtype=np.int64)[order]

    def rows(self, hashes: np.ndarray) -> np.ndarray:
        """The first row of each id, -1 where there is none."""
        if not len(self._hashes):
            return np.full(len(hashes), -1)
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        found: np.ndarray = np.where(self._hashes[places] == hashes, self._rows[places], -1)
        return found


def _joined(sources: list[tuple[RowTable, Part]], queries: _Ids, documents: _Ids) -> np.ndarray:
    """Group, row of the query, row of the document, whether it is relevant, judgement: (n, 5).

    Sorted by groups, which are the queries in the order of their first judgements; -1 for what is
    not there. A judgement that cannot be read is a group of its own, of the query -2. Those of
    later sources are negatives of groups that the first has made.
    """
    asked, named, relevant, lines = array("q"), array("q"), array("b"), array("q")
    for place, (table, part) in enumerate(sources):
        for n, row in scanned(table):
            if n == 0 and row is not None and str(row[part.columns[0]]) in _HEADERS:
                continue
            try:
                grade = _grade(row, part, place)
            except InputError:
                row = None
            if row is None and place:
                continue
            asked.append(-1 - n if row is None else _hash(row[part.columns[0]]))
            named.append(-1 if row is None else _hash(row[part.columns[1]]))
            relevant.append(1 if row is None else grade)
            lines.append(n if not place else -1)
    hashes = np.frombuffer(asked, dtype=np.int64)
    query_rows = np.where(hashes < 0, -2, queries.rows(hashes))
    document_rows = documents.rows(np.frombuffer(named, dtype=np.int64))
    _, firsts, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    ranks = np.empty(len(firsts), dtype=np.int64)
    ranks[np.argsort(firsts)] = np.arange(len(firsts))
    columns = (ranks[inverse], query_rows, document_rows, relevant, lines)
    joined = np.stack([np.asarray(column, dtype=np.int64) for column in columns], axis=1)
    return joined[np.argsort(joined[:, 0], kind="stable")]


def _grade(row: Mapping[str, Any] | None, part: Part, place: int) -> int:
    """Whether a document is relevant; only those of the first source can be."""
    if row is None or place:
        return 0
    if len(part.columns) == 2:
        return 1
    return int(number(row[part.columns[2]], part.columns[2], "") > 0)


class JudgedRows:
    """See `mmembed.datasets.ExampleRows`; a row for each query with a relevant document."""

    def __init__(
        self,
        card: DatasetCard,
        tables: list[RowTable],
        joined: np.ndarray,
        layout: Layout,
        *,
        separator: str,
        num_hard_negatives: int | None,
        seed: int,
    ) -> None:
        self.name, self.task = card.name, card.task
        self.revision, self.license = card.revision, card.license
        self._tables, self._joined, self._layout = tables, joined, layout
        self._separator, self._seed = separator, seed
        self._num_hard_negatives = num_hard_negatives
        begins = np.flatnonzero(np.diff(joined[:, 0], prepend=-1))
        self._begins, self._ends = begins, np.append(begins[1:], len(joined))[: len(begins)]
        if len(begins):
            has_any = np.maximum.reduceat(joined[:, 3], begins) > 0
            self._begins, self._ends = begins[has_any], self._ends[has_any]

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(file for table in self._tables for file in table.files)

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, index: int) -> ContrastiveExample:
        block = self._block(index)
        query_row = int(block[0, 1])
        if query_row < 0:
            self._refuse(block)
        asked = text(*self._cell(1, query_row, self._layout.queries.columns[1]))
        relevant = list(dict.fromkeys(row for _, _, row, grade, _ in block.tolist() if grade))
        if -1 in relevant:
            self._refuse(block[block[:, 2] == -1])
        others = list(
            dict.fromkeys(
                row
                for _, _, row, grade, _ in block.tolist()
                if not grade and row >= 0 and row not in relevant
            )
        )
        query_id = f"{self.name}/{query_row}"
        chosen = drawn(others, self._num_hard_negatives, f"{query_id}/{self._seed}")
        return example(
            self.task,
            item(asked),
            list(map(self._document, relevant)),
            list(map(self._document, chosen)),
            query_id=query_id,
        )

    def where(self, index: int) -> str:
        return self._tables[2].where(int(self._block(index)[0, 4]))

    def _block(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {self.name}; it has {len(self)} rows")
        block: np.ndarray = self._joined[self._begins[index] : self._ends[index]]
        return block

    def _refuse(self, block: np.ndarray) -> None:
        """Raises InputError, saying which judgement names what is not there."""
        judgements, line = self._tables[2], int(block[0, 4])
        row, where = judgements[line], judgements.where(line)
        column, file = ("document", 0) if block[0, 1] >= 0 else ("query", 1)
        names = self._layout.judgements.columns
        if block[0, 1] == -2:
            number(row[names[2]], names[2], where)
        name = row[names[1] if column == "document" else names[0]]
        raise InputError(
            "invalid_type", f"{where}: no {column} {name!r} in {self._tables[file].files[0].name}"
        )

    def _cell(self, table: int, row: int, column: str) -> tuple[Any, str, str]:
        return self._tables[table][row][column], column, self._tables[table].where(row)

    def _document(self, row: int) -> str:
        corpus, part = self._tables[0], self._layout.corpus
        found = corpus[row]
        column = part.columns[1]
        # BEIR and MIRACL have documents that are a title only.
        title = found.get(part.title) if part.title else None
        if title and found[column] == "":
            return text(title, part.title, corpus.where(row))
        return titled(title, text(found[column], column, corpus.where(row)), self._separator)
