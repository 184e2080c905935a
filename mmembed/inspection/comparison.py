"""What rows have in common with each other and with evaluation items.

Rows go in one by one and leave a few numbers behind; `findings` compares them all at the end. Texts
that may be similar are read again, so that only those are reported that are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmembed.errors import InputError
from mmembed.inspection.columns import HashColumn
from mmembed.inspection.content import hash_of_text, item_hash, item_text, words_of
from mmembed.inspection.leakage import LeakageIndex, media_hash
from mmembed.inspection.media_facts import MediaFacts
from mmembed.inspection.near_pictures import MAX_DISTANCE, PictureColumn, near_pictures
from mmembed.inspection.near_texts import MIN_SIMILARITY, TextColumn
from mmembed.inspection.rows import RowSpace, fields_of, owner_of, row_of
from mmembed.store.content import Digest
from mmembed.types import ContrastiveExample, Image, MultimodalInput, Text

__all__ = ["RawFinding", "RowComparison"]

_MODULUS = 1 << 64


@dataclass(frozen=True)
class RawFinding:
    """A finding before its place is looked up; `row` counts through all data sets."""

    kind: str
    row: int
    field: str
    message: str


class RowComparison:
    """Columns over all rows.

    Args:
        near: also look for near duplicates, for which rows are read twice.
        distance: of perceptual hashes.
        similarity: Jaccard, of runs of three words.
        digest: sha256 hex of a file.
    """

    def __init__(
        self,
        rows: RowSpace,
        *,
        digest: Digest,
        leakage: LeakageIndex | None = None,
        near: bool = True,
        distance: int = MAX_DISTANCE,
        similarity: float = MIN_SIMILARITY,
    ) -> None:
        self._rows = rows
        self._digest = digest
        self._leakage = leakage
        self._near = near
        self._distance = distance
        self._similarity = similarity
        self._ids = HashColumn()
        self._queries = HashColumn()
        self._labels = HashColumn()
        self._labelled = HashColumn()  # queries that have a label
        self._documents = HashColumn()
        self._pairs = HashColumn()
        self._media = HashColumn()
        self._texts = {"query": TextColumn(), "positives": TextColumn()}
        self._pictures = {"query": PictureColumn(), "positives": PictureColumn()}
        self._all_pictures = PictureColumn()

    @property
    def num_bytes(self) -> int:
        """Memory of the columns."""
        hashes = [self._ids, self._queries, self._labels, self._labelled]
        hashes += [self._documents, self._pairs, self._media]
        texts, pictures = self._texts.values(), [*self._pictures.values(), self._all_pictures]
        return (
            sum(each.num_bytes for each in hashes)
            + sum(each.num_bytes for each in texts)
            + sum(each.num_bytes for each in pictures)
        )

    def item_hashes(self, example: ContrastiveExample) -> list[int | None]:
        """Of query, positives and negatives; None of what cannot be read."""
        return [self._hash(item) for _, item in fields_of(example)]

    def add(
        self,
        row: int,
        example: ContrastiveExample,
        hashes: Sequence[int | None],
        facts: dict[int, list[MediaFacts]],
    ) -> Iterator[RawFinding]:
        """Remember a row; yields what its texts have of the evaluation.

        Args:
            facts: of the media of each item that could be opened, by number of the item.
        """
        number, _ = self._rows.locate(row)
        if example.query_id:
            self._ids.add(hash_of_text(f"{number}/{example.query_id}"), row)
        asked = self._hash(example.query, with_instruction=True)
        if asked is not None:
            self._queries.add(asked, row)
            if example.label is not None:
                self._labels.add(hash_of_text(example.label), row)
                self._labelled.add((asked + number) % _MODULUS, row)
        for slot, (field, item) in enumerate(fields_of(example)):
            if slot > len(example.positives):
                break
            exact = hashes[slot]
            if exact is not None and slot:
                self._documents.add(exact, row)
                if asked is not None:
                    self._pairs.add((asked * 3 + exact) % _MODULUS, row)
            owner = owner_of(row, slot)
            self._add_near(owner, field, item, exact, facts.get(slot, []))
            if self._leakage is not None:
                yield from self._leaked_text(row, owner, field, item)
                for each in facts.get(slot, []):
                    for signature in each.signatures:
                        self._all_pictures.add(signature, owner)

    def findings(self) -> Iterator[RawFinding]:
        """Everything that two rows, or a row and an evaluation item, have in common."""
        yield from self._repeated(self._ids, "duplicate_id", "id")
        yield from self._repeated(self._pairs, "duplicate", "")
        yield from self._conflicts()
        yield from self._repeated(self._queries, "repeated_query", "query")
        yield from self._repeated(self._documents, "repeated_document", "positives")
        for side, texts in self._texts.items():
            for owner, earlier, share in texts.near(self._text, threshold=self._similarity):
                if row_of(owner) != row_of(earlier) or side == "query":
                    words = f"like {self._named(earlier)}, similarity {share:.2f}"
                    yield self._near_finding("near_text", owner, words)
        for pictures in self._pictures.values():
            yield from self._near_pictures(pictures)
        yield from self._leaked_media()

    def _hash(self, item: MultimodalInput, *, with_instruction: bool = False) -> int | None:
        try:
            return item_hash(item, with_instruction=with_instruction, digest=self._digest)
        except InputError:
            return None  # its media are reported where they are opened

    def _add_near(
        self,
        owner: int,
        field: str,
        item: MultimodalInput,
        exact: int | None,
        facts: Sequence[MediaFacts],
    ) -> None:
        if not self._near or exact is None:
            return
        side = field.partition("[")[0]
        media = [part for part in item.parts if not isinstance(part, Text)]
        if not media:
            self._texts[side].add(item_text(item), exact, owner)
        elif len(media) == 1 and isinstance(media[0], Image) and facts and facts[0].signatures:
            signature = facts[0].signatures[0]
            words = words_of(item_text(item))
            if words:  # equal questions leave the distance as it is, others make it large
                mixed = signature.hash ^ hash_of_text(" ".join(words))
                signature = replace(signature, hash=mixed)
            self._pictures[side].add(signature, owner, exact)

    def _repeated(self, column: HashColumn, kind: str, field: str) -> Iterator[RawFinding]:
        for group in column.groups():
            first = int(group[0])
            for row in map(int, group[1:]):
                yield RawFinding(kind, row, field, f"as in {self._rows.place(first)}")

    def _conflicts(self) -> Iterator[RawFinding]:
        labels, rows = self._labels.values(), self._labels.rows()
        for group in self._labelled.groups():
            known = group[np.isin(group, rows)]
            if len(known) < 2:
                continue
            found = labels[np.searchsorted(rows, known)]
            first = int(known[0])
            for row in map(int, known[found != found[0]]):
                here, there = (self._rows.example(each).label for each in (row, first))
                words = f"{here!r}, but {there!r} in {self._rows.place(first)}"
                yield RawFinding("conflict", row, "label", words)

    def _near_pictures(self, pictures: PictureColumn) -> Iterator[RawFinding]:
        owners, exact = pictures.owners(), pictures.exact()
        for one, other, bits in near_pictures(pictures, distance=self._distance):
            if exact[one] == exact[other]:
                continue
            words = f"like {self._named(int(owners[other]))}, {bits} of 63 bits differ"
            yield self._near_finding("near_picture", int(owners[one]), words)

    def _leaked_text(
        self, row: int, owner: int, field: str, item: MultimodalInput
    ) -> Iterator[RawFinding]:
        assert self._leakage is not None
        match = self._leakage.find_text(item, field)
        if match is not None:
            words = f"{match} as {self._leakage.names[match.item]}"
            yield RawFinding("leak", row, field, words)
        for part in item.parts:
            digest = None if isinstance(part, Text) else media_hash(part, self._digest)
            if digest is not None:
                self._media.add(digest, owner)

    def _leaked_media(self) -> Iterator[RawFinding]:
        if self._leakage is None:
            return
        told = set()
        for owner, item in self._leakage.find_media(self._media):
            told.add(owner)
            words = f"the same bytes as {self._leakage.names[item]}"
            yield self._near_finding("leak", owner, words)
        for owner, item, bits in self._leakage.find_pictures(self._all_pictures):
            if owner not in told:
                told.add(owner)
                words = f"like {self._leakage.names[item]}, {bits} of 63 bits differ"
                yield self._near_finding("leak", owner, words)

    def _near_finding(self, kind: str, owner: int, message: str) -> RawFinding:
        return RawFinding(kind, row_of(owner), self._rows.field(owner), message)

    def _named(self, owner: int) -> str:
        return f"{self._rows.place(row_of(owner))}, {self._rows.field(owner)}"

    def _text(self, owner: int) -> str:
        return item_text(self._rows.item(owner))
