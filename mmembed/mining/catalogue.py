"""What is mined: every distinct document once, and which of them each row must not get.

    data sets, corpus files -> read_catalogue -> Catalogue -> vectors.py -> nearest.py

One pass over the rows. Kept are numbers and names by content, neither items nor media.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmembed.baselines.stored_vectors import with_instruction
from mmembed.data.adapter import DatasetAdapter
from mmembed.data.opening import OpenedDataset
from mmembed.errors import ConfigError, InputError
from mmembed.mining.corpus_file import CorpusFile
from mmembed.mining.groups import Groups, first_labels
from mmembed.store.content import Digest, content_key
from mmembed.types import ContrastiveExample, MultimodalInput

__all__ = ["Catalogue", "Rows", "read_catalogue"]

_KEY_BYTES = 32
_REMEMBERED = 256  # rows
_NAMED = 100  # unusable rows of each data set


@dataclass(frozen=True)
class Rows:
    """The rows of one data set, by number.

    Attributes:
        queries: (R,) number of the query; equal queries have equal numbers; -1: no usable row.
        labels: (R,) number of the label, -1: none.
        siblings: (R,) number of the whole that the row is from, -1: none.
        positives: documents of each row, in order.
        keys: of the queries, 32 bytes each, by which their vectors are found.
        unusable: (what the row is called, why), the first of them.
        num_unusable: all of them.
    """

    queries: np.ndarray
    labels: np.ndarray
    siblings: np.ndarray
    positives: Groups
    keys: bytearray
    unusable: list[tuple[str, str]]
    num_unusable: int

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def usable(self) -> np.ndarray:
        return np.flatnonzero(self.queries >= 0)

    def key(self, row: int) -> str:
        return self.keys[row * _KEY_BYTES : (row + 1) * _KEY_BYTES].hex()


@dataclass
class Catalogue:
    """Documents by number, in the order of their first appearance.

    Attributes:
        opened: the data sets; `rows` has theirs.
        label_names: data set and label of each number.
        pools: documents of each data set, ascending, with those of the corpus files.
    """

    opened: Sequence[OpenedDataset]
    corpus: Sequence[CorpusFile]
    rows: list[Rows]
    label_names: list[tuple[int, str]]
    pools: list[np.ndarray]
    _labels: list[np.ndarray]  # beside `pools`
    _of_label_too: Groups
    _asked_by: Groups
    _first_rows: np.ndarray  # (Q, 2): source, row
    _places: np.ndarray  # (N, 3): source, row, slot
    _numbers: dict[bytes, int]
    _keys: bytearray
    _of_query: Groups
    _ids_of_query: Groups
    _of_id: Groups
    _of_sibling: Groups
    _same_as_query: np.ndarray
    corpus_instruction: str | None = None
    _read: dict[tuple[int, int], ContrastiveExample] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._places)

    def key(self, document: int) -> str:
        """By which the vector of a document is found."""
        return self._keys[document * _KEY_BYTES : (document + 1) * _KEY_BYTES].hex()

    def asked_query(self, source: int, row: int) -> MultimodalInput:
        """As the teacher reads it."""
        item = self.example(source, row).query
        return with_instruction(item, self.opened[source].query_instruction)

    def asked_document(self, document: int) -> MultimodalInput:
        """As the teacher reads it: with the instruction of the data set that had it first."""
        source = int(self._places[document, 0])
        extra = source >= len(self.opened)
        prompt = self.corpus_instruction if extra else self.opened[source].document_instruction
        return with_instruction(self.item(document), prompt)

    def number(self, item: MultimodalInput, digest: Digest) -> int | None:
        """Of a document with this content."""
        return self._numbers.get(_content(item, digest))

    def item(self, document: int) -> MultimodalInput:
        """The document, as the row has it in which it was seen first."""
        source, row, slot = self._places[document].tolist()
        if source >= len(self.opened):
            return self.corpus[source - len(self.opened)].item(row)
        example = self.example(source, row)
        return (*example.positives, *example.hard_negatives)[slot]

    def example(self, source: int, row: int) -> ContrastiveExample:
        """A row; the last few that were read are remembered."""
        found = self._read.get((source, row))
        if found is None:
            found = self.opened[source].adapter[row]
            if len(self._read) >= _REMEMBERED:
                self._read.clear()
            self._read[source, row] = found
        return found

    def where(self, document: int) -> str:
        """For people: the row in which the document was seen first."""
        source, row, _ = self._places[document].tolist()
        if source < len(self.opened):
            return self.where_row(source, row)
        file = self.corpus[source - len(self.opened)]
        return f"{file.path}, line {file.numbers[row]}"

    def where_row(self, source: int, row: int) -> str:
        """For people."""
        return _where(self.opened[source].adapter, self.opened[source].name, row)

    def known(self, query: int) -> np.ndarray:
        """Documents that are positives of a query, in whichever row, or are the query itself."""
        found = [self._of_query.of(query)]
        found += [self._of_id.of(number) for number in self._ids_of_query.of(query).tolist()]
        same = self._same_as_query[query : query + 1]
        return np.unique(np.concatenate([*found, same[same >= 0]]))

    def labels(self, source: int, documents: np.ndarray) -> np.ndarray:
        """(n,) number of the first label that each document has in a data set, -1: none."""
        pool, labels = self.pools[source], self._labels[source]
        found = np.full(len(documents), -1, dtype=np.int64)
        places = np.searchsorted(pool, documents)
        inside = places < len(pool)
        inside[inside] = pool[places[inside]] == documents[inside]
        found[inside] = labels[places[inside]]
        return found

    def of_label_too(self, label: int) -> np.ndarray:
        """Documents of a label that have another one in its data set before it."""
        return self._of_label_too.of(label)

    def asked_by(self, document: int) -> np.ndarray:
        """(n, 2) data set and first row of each query that a document is a positive of."""
        rows: np.ndarray = self._first_rows[np.unique(self._asked_by.of(document))]
        return rows

    def siblings(self, sibling: int) -> np.ndarray:
        """Positives of all rows from one whole."""
        return np.unique(self._of_sibling.of(sibling))


class _Reader:
    """Gathers what `Catalogue` holds while rows go by."""

    def __init__(self, digest: Digest) -> None:
        self.digest = digest
        self.numbers: dict[bytes, int] = {}
        self.keys = bytearray()
        self.places = array("q")
        self.queries: dict[str, int] = {}
        self.query_contents: list[bytes] = []
        self.first_rows = array("q")
        self.names: dict[tuple[str, int, str], int] = {}  # of labels, ids and wholes
        self.pairs: dict[str, tuple[array[int], array[int]]] = {
            kind: (array("q"), array("q"))
            for kind in ("query", "query_ids", "id", "sibling", "source", "label")
        }

    def rows(self, source: int, opened: OpenedDataset, advance: Callable[[int], None]) -> Rows:
        adapter = opened.adapter
        sibling_key = getattr(adapter, "sibling_key", None)
        queries, labels, siblings = array("q"), array("q"), array("q")
        of_row = (array("q"), array("q"))
        keys, unusable, count = bytearray(), list[tuple[str, str]](), 0
        for row in range(len(adapter)):
            advance(1)
            query = label = sibling = -1
            key = bytes(_KEY_BYTES)
            try:
                example = adapter[row]
                if not example.positives:
                    raise InputError("empty", "the row has no positive")
                contents = self._contents(example)
                asked = with_instruction(example.query, opened.query_instruction)
                name = content_key(asked, "query", digest=self.digest)
                query = self._query(name, example.query, source, row)
            except InputError as error:
                count += 1
                if len(unusable) < _NAMED:
                    unusable.append((_where(adapter, opened.name, row), str(error)))
            else:
                key = bytes.fromhex(name)
                label = self._named("label", source, example.label)
                prompt = opened.document_instruction
                numbers = self._documents(source, row, example, contents, label, prompt)
                for number in numbers[: len(example.positives)]:
                    of_row[0].append(row)
                    of_row[1].append(number)
                    self._pair("query", query, number)
                for number, positive_id in zip(numbers, example.positive_ids, strict=False):
                    named = self._named("id", source, positive_id)
                    self._pair("query_ids", query, named)
                    self._pair("id", named, number)
                whole = sibling_key(row) if sibling_key is not None else ""
                if whole:
                    sibling = self._named("sibling", source, whole)
                    for number in numbers[: len(example.positives)]:
                        self._pair("sibling", sibling, number)
            queries.append(query)
            labels.append(label)
            siblings.append(sibling)
            keys += key
        return Rows(
            np.array(queries, dtype=np.int64),
            np.array(labels, dtype=np.int64),
            np.array(siblings, dtype=np.int64),
            Groups(*of_row),
            keys,
            unusable,
            count,
        )

    def document(
        self,
        item: MultimodalInput,
        content: bytes,
        place: tuple[int, int, int],
        instruction: str | None,
    ) -> int:
        number = self.numbers.setdefault(content, len(self.numbers))
        if number * 3 == len(self.places):
            asked = with_instruction(item, instruction)
            key = content if asked.instruction is None else _key(asked, self.digest)
            self.keys += key
            self.places.extend(place)
        return number

    def _contents(self, example: ContrastiveExample) -> list[bytes]:
        items = (*example.positives, *example.hard_negatives)
        return [_content(item, self.digest) for item in items]

    def _query(self, name: str, item: MultimodalInput, source: int, row: int) -> int:
        number = self.queries.setdefault(name, len(self.queries))
        if number == len(self.query_contents):
            self.query_contents.append(_content(item, self.digest))
            self.first_rows.extend((source, row))
        return number

    def _documents(
        self,
        source: int,
        row: int,
        example: ContrastiveExample,
        contents: Sequence[bytes],
        label: int,
        instruction: str | None,
    ) -> list[int]:
        items = (*example.positives, *example.hard_negatives)
        labels = [label] * len(example.positives)
        labels += [self._named("label", source, each) for each in example.negative_labels]
        labels += [-1] * (len(items) - len(labels))
        numbers = [
            self.document(item, content, (source, row, slot), instruction)
            for slot, (item, content) in enumerate(zip(items, contents, strict=True))
        ]
        for number, each in zip(numbers, labels, strict=True):
            self._pair("source", source, number)
            if each >= 0:
                self._pair("label", each, number)
        return numbers

    def _named(self, kind: str, source: int, name: str | None) -> int:
        return -1 if name is None else self.names.setdefault((kind, source, name), len(self.names))

    def _pair(self, kind: str, group: int, member: int) -> None:
        groups, members = self.pairs[kind]
        groups.append(group)
        members.append(member)


def read_catalogue(
    opened: Sequence[OpenedDataset],
    *,
    corpus: Iterable[str | Path] = (),
    digest: Digest,
    corpus_instruction: str | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Catalogue:
    """Read every row once. Rows that cannot be used are left out and named.

    Args:
        corpus_instruction: of documents of `corpus` that bring none.

    Raises:
        ConfigError: a corpus file that cannot be read, or a line of it that is no item.
    """
    reader = _Reader(digest)
    rows = [reader.rows(source, each, advance) for source, each in enumerate(opened)]
    files = [CorpusFile(Path(path)) for path in corpus]
    extra = array("q")
    for source, file in enumerate(files, len(opened)):
        for row in range(len(file)):
            item = file.item(row)
            try:
                content = _content(item, digest)
            except InputError as error:
                raise ConfigError(f"{file.path}, line {file.numbers[row]}: {error}") from None
            place = (source, row, 0)
            extra.append(reader.document(item, content, place, corpus_instruction))
    of_label = reader.pairs.pop("label")
    pairs = {kind: Groups(*both) for kind, both in reader.pairs.items()}
    more = np.array(extra, dtype=np.int64)
    pools = [
        np.unique(np.concatenate([pairs["source"].of(source), more]))
        for source in range(len(opened))
    ]
    label_names = [(source, name) for _, source, name in reader.names]
    labels, second = first_labels(pools, [source for source, _ in label_names], *of_label)
    same = [reader.numbers.get(content, -1) for content in reader.query_contents]
    return Catalogue(
        opened=opened,
        corpus=files,
        rows=rows,
        label_names=label_names,
        pools=pools,
        _labels=labels,
        _of_label_too=second,
        _asked_by=Groups(*reversed(reader.pairs["query"])),
        _first_rows=np.array(reader.first_rows, dtype=np.int64).reshape(-1, 2),
        _places=np.array(reader.places, dtype=np.int64).reshape(-1, 3),
        _numbers=reader.numbers,
        _keys=reader.keys,
        _of_query=pairs["query"],
        _ids_of_query=pairs["query_ids"],
        _of_id=pairs["id"],
        _of_sibling=pairs["sibling"],
        _same_as_query=np.array(same, dtype=np.int64),
        corpus_instruction=corpus_instruction,
    )


def _where(adapter: DatasetAdapter, name: str, row: int) -> str:
    where = getattr(adapter, "where", None)
    return where(row) if where is not None else f"{name}, row {row}"


def _content(item: MultimodalInput, digest: Digest) -> bytes:
    """Names what an item says and shows, whatever its instruction."""
    return _key(MultimodalInput(item.parts), digest)


def _key(item: MultimodalInput, digest: Digest) -> bytes:
    return bytes.fromhex(content_key(item, "document", digest=digest))
