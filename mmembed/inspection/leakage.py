"""Whether rows to train on hold something of what a model will be judged with.

Texts: a run of 13 words in common, the rule of GPT-3 (T. Brown et al., 2020, appendix C). Of an
evaluation text of 8 to 12 words, all of them in a row; a shorter one must be the whole text and
stand alone, and fewer than four words, such as the name of a class, count from query to query only.
Words that more than ten different evaluation texts share are the wording of a prompt, not content.
Pictures and pages: perceptual hashes (`near_pictures`). All media: the same bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from mmembed.errors import InputError
from mmembed.inputs.media import MediaPart
from mmembed.inspection.columns import HashColumn
from mmembed.inspection.content import hash_of_text, item_text, ngram_hashes, word_hashes, words_of
from mmembed.inspection.media_facts import MediaReader
from mmembed.inspection.near_pictures import MAX_DISTANCE, PictureColumn, near_pictures
from mmembed.store.content import Digest, hash_file, source_digest
from mmembed.types import MultimodalInput, Text, Url

__all__ = ["EvaluationItem", "LeakageIndex", "TextMatch", "media_hash"]

NGRAM = 13
_SHORTEST_RUN = 8
_SHORTEST_DOCUMENT = 4
_MOST_SHARING = 10
_AT_ONCE = 256
_LENGTHS = 0xD6E8FEB86659FD93


@dataclass(frozen=True)
class EvaluationItem:
    """`name` is for people: suite, task and id, or file and line."""

    name: str
    side: Literal["query", "document"]
    item: MultimodalInput


@dataclass(frozen=True)
class TextMatch:
    """`words` of a text that evaluation item number `item` has too."""

    item: int
    words: str

    def __str__(self) -> str:
        return f"the same words {self.words!r}"


class LeakageIndex:
    """Everything of evaluation items that rows are compared with: 16 bytes a word, 36 a picture.

    Args:
        items: read once, in pieces; only their names are kept.
        media: opens their pictures; it may be the one that opens those of the rows.
        ngram: length of a run of words; runs of shorter texts follow.
    """

    def __init__(
        self,
        items: Iterable[EvaluationItem],
        media: MediaReader,
        *,
        ngram: int = NGRAM,
        distance: int = MAX_DISTANCE,
    ) -> None:
        self.names: list[str] = []
        self.num_unread = 0
        self._ngram = ngram
        self._distance = distance
        self._pictures = PictureColumn()
        self._media = HashColumn()
        self._texts = array("Q")  # of each item, to tell different texts
        self._grams = HashColumn()
        source = iter(items)
        while some := list(islice(source, _AT_ONCE)):
            self._add(some, media)
        self._keys, self._owners = self._distinct_grams()
        self._grams = HashColumn()

    def __len__(self) -> int:
        return len(self.names)

    def find_text(self, item: MultimodalInput, side: str) -> TextMatch | None:
        """The first run of words that an evaluation text has too, of the longest runs in common.

        Args:
            side: `query`, or anything else for a document.
        """
        words = words_of(item_text(item)) if len(self._keys) else []
        for length, keys in self._runs(words, _shortest_whole(item, side)):
            places = np.searchsorted(self._keys, keys)
            places[places == len(self._keys)] = 0
            found = np.flatnonzero(self._keys[places] == keys)
            if len(found):
                first = int(found[0])
                owner = int(self._owners[places[first]])
                return TextMatch(owner, " ".join(words[first : first + length]))
        return None

    def find_media(self, rows: HashColumn) -> Iterator[tuple[int, int]]:
        """(owner, number of the evaluation item) of media with the same bytes."""
        known, which = np.unique(self._media.values(), return_index=True)
        if not len(known):
            return
        values = rows.values()
        places = np.minimum(np.searchsorted(known, values), len(known) - 1)
        for position in np.flatnonzero(known[places] == values):
            item = self._media.rows()[which[places[position]]]
            yield int(rows.rows()[position]), int(item)

    def find_pictures(self, pictures: PictureColumn) -> Iterator[tuple[int, int, int]]:
        """(owner, number of the evaluation item, distance) of pictures that look alike."""
        mine, others = pictures.owners(), self._pictures.owners()
        for one, other, bits in near_pictures(pictures, self._pictures, distance=self._distance):
            yield int(mine[one]), int(others[other]), bits

    def _add(self, items: Sequence[EvaluationItem], media: MediaReader) -> None:
        parts: list[tuple[int, MediaPart]] = []
        for each in items:
            number = len(self.names)
            self.names.append(each.name)
            text = item_text(each.item)
            words = words_of(text)
            self._texts.append(hash_of_text(" ".join(words)))
            for _, keys in self._runs(words, _shortest_whole(each.item, each.side), own=True):
                for key in keys.tolist():
                    self._grams.add(key, number)
            parts += [(number, part) for part in each.item.parts if not isinstance(part, Text)]
        facts = media.read([part for _, part in parts])
        for (number, part), outcome in zip(parts, facts, strict=True):
            digest = media_hash(part)
            if digest is not None:
                self._media.add(digest, number)
            if isinstance(outcome, InputError):
                self.num_unread += 1
                continue
            for signature in outcome.signatures:
                self._pictures.add(signature, number)

    def _runs(
        self, words: Sequence[str], shortest_whole: int, *, own: bool = False
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(length, keys) of runs to be compared, the longest first.

        Args:
            shortest_whole: words of a text that is compared as a whole.
            own: of an evaluation text, which has runs of one length only; else all lengths.
        """
        shortest = min(_SHORTEST_RUN, self._ngram)
        size = len(words)
        if size < shortest:
            if size >= shortest_whole:
                yield size, np.array([hash_of_text(" ".join(words))], np.uint64)
            return
        wanted = {min(size, self._ngram)} if own else set(range(shortest, self._ngram + 1))
        runs = dict(ngram_hashes(word_hashes(list(words)), max(wanted)))
        for length in sorted(wanted & set(runs), reverse=True):
            yield length, runs[length] ^ np.uint64(length * _LENGTHS % (1 << 64))

    def _distinct_grams(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys, ascending, without those that many texts share, and the first item of each."""
        keys, owners = self._grams.values(), self._grams.rows()
        if not len(keys):
            return keys, owners
        texts = np.array(self._texts, dtype=np.uint64)[owners.astype(np.int64)]
        order = np.lexsort((owners, texts, keys))
        keys, texts, owners = keys[order], texts[order], owners[order]
        new_key = np.concatenate([[True], keys[1:] != keys[:-1]])
        new_text = new_key | np.concatenate([[True], texts[1:] != texts[:-1]])
        starts = np.flatnonzero(new_key)
        sharing = np.add.reduceat(new_text.astype(np.int64), starts)
        first = np.minimum.reduceat(owners, starts)
        kept = sharing <= _MOST_SHARING
        return keys[starts][kept], first[kept]


def media_hash(part: MediaPart, digest: Digest = hash_file) -> int | None:
    """64 bits of the bytes of a medium; None of what has no bytes here."""
    if isinstance(part.source, Url | tuple):
        return None
    try:
        return int(source_digest(part.source, digest=digest)[:16], 16)
    except InputError:
        return None


def _shortest_whole(item: MultimodalInput, side: str) -> int:
    """A short question may be asked of any picture, a short name be that of many documents."""
    if any(not isinstance(part, Text) for part in item.parts):
        return _SHORTEST_RUN
    return 1 if side == "query" else _SHORTEST_DOCUMENT
