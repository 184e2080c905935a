"""Search of words: tokens of any script and BM25, for the indexes that bring no full-text search.

    searchable_text -> document_tokens -> WordIndex.search (numpy) | word_weights (sparse vectors)

Words are compared without case and without accents of Latin, Greek and Cyrillic letters. Scripts
that put no spaces between words (Chinese, Japanese, Korean, Thai, ...) are cut into pairs of
characters: a text has its single characters too, so that a query of one character finds it.
"""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["WordIndex", "document_tokens", "query_tokens", "word_number", "word_weights"]

_K1, _B = 1.2, 0.75
_TYPICAL_TOKENS = 100.0  # ours: a page's first paragraphs, or a passage
_ACCENTS = re.compile("[\u0300-\u036f]")
# Letters and digits, and whole scripts whose vowel signs are no letters for `re`.
_WORD = re.compile(
    r"(?:[^\W_]|[\u0591-\u05c7\u064b-\u065f\u0900-\u0963\u0966-\u109f\u1780-\u17d3\u3099\u309a])+"
)
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
    "\uf900-\ufaff\U00020000-\U0003ffff]+)"
)


def document_tokens(text: str) -> list[str]:
    """The words of a text, in order and with repetitions."""
    return _tokens(text, singles=True)


def query_tokens(text: str) -> list[str]:
    """The words to look for, each once."""
    return list(dict.fromkeys(_tokens(text, singles=False)))


def _tokens(text: str, *, singles: bool) -> list[str]:
    # decomposed to drop accents, then composed again: syllables of Korean stay whole
    folded = _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    words = _WORD.findall(unicodedata.normalize("NFC", folded).casefold())
    found = []
    for word in words:
        if word.isascii():
            found.append(word)
            continue
        for number, piece in enumerate(_UNSPACED.split(word)):
            if number % 2 == 0:
                found += [piece] if piece else []
                continue
            if singles or len(piece) == 1:
                found += piece
            found += [piece[start : start + 2] for start in range(len(piece) - 1)]
    return found


class WordIndex:
    """BM25 (k1 1.2, b 0.75; idf = ln(1 + (N - n + 0.5) / (n + 0.5)), which is never negative).

    Args:
        texts: their numbers, from 0, are what `search` returns.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._words: dict[str, int] = {}
        words, documents, counts = array("q"), array("q"), array("d")
        lengths = array("d")
        for number, text in enumerate(texts):
            tokens = document_tokens(text)
            lengths.append(len(tokens))
            for token, count in Counter(tokens).items():
                words.append(self._words.setdefault(token, len(self._words)))
                documents.append(number)
                counts.append(count)
        self._count = len(lengths)
        places = np.array(words, dtype=np.int64)
        order = np.argsort(places, kind="stable")
        self._starts = np.searchsorted(places[order], np.arange(len(self._words) + 1))
        self._documents = np.array(documents, dtype=np.int64)[order]
        share = np.array(lengths) / max(float(np.mean(lengths)) if lengths else 1.0, 1.0)
        counted = np.array(counts)[order]
        self._weights = _saturated(counted, share[self._documents])

    def search(
        self, text: str, k: int, *, wanted: np.ndarray | None = None
    ) -> list[tuple[int, float]]:
        """(number, score) of the k best texts with any of the words; of equal scores the lower
        number first.

        Args:
            wanted: (N,) bool, which texts may be found; the idf is that of all texts.
        """
        scores = np.zeros(self._count)
        for token in query_tokens(text):
            word = self._words.get(token)
            if word is None:
                continue
            chosen = slice(self._starts[word], self._starts[word + 1])
            documents = self._documents[chosen]
            idf = math.log1p((self._count - len(documents) + 0.5) / (len(documents) + 0.5))
            scores[documents] += idf * self._weights[chosen]
        if wanted is not None:
            scores = np.where(wanted, scores, 0.0)
        found = np.flatnonzero(scores)
        best = found[np.lexsort((found, -scores[found]))[:k]]
        return [(int(number), float(scores[number])) for number in best]


def word_weights(text: str) -> dict[int, float]:
    """The BM25 weights of a text without the idf, by a 32-bit number of each word.

    For engines that keep sparse vectors and multiply by the idf themselves. Texts are compared
    with a typical length, since the mean one is unknown while they are written.
    """
    tokens = document_tokens(text)
    share = len(tokens) / _TYPICAL_TOKENS
    weights: dict[int, float] = {}
    for token, count in Counter(tokens).items():
        number = word_number(token)
        weights[number] = weights.get(number, 0.0) + float(_saturated(count, share))
    return weights


def word_number(token: str) -> int:
    """Which coordinate of a sparse vector a word has."""
    return zlib.crc32(token.encode("utf-8", errors="surrogatepass"))


def _saturated(count: Any, share: Any) -> Any:
    """tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length))"""
    return count * (_K1 + 1) / (count + _K1 * (1 - _B + _B * share))
