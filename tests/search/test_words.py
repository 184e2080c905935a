"""Words of any script, BM25 against its formula, and the fusion of rankings."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmembed.search.fusion import reciprocal_rank_fusion
from mmembed.search.words import WordIndex, document_tokens, query_tokens, word_weights

TEXTS = ["red apple red", "a red car", "green apple pie with apple", "", "nothing of this"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Caf\u00e9 M\u00dcLLER's re\u0301sume\u0301_v2", "cafe muller s resume v2"),
        ("STRASSE stra\u00dfe", "strasse strasse"),
        ("report-2024.final", "report 2024 final"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940 \u0440\u0443\u0441\u0441\u043a\u0438\u0439", None),
        ("...!? \U0001f600", ""),
    ],
)
def test_words_are_compared_without_case_and_accents(text: str, tokens: str | None) -> None:
    if tokens is None:
        # vowel signs belong to their word; the short i of Russian is an i with a breve
        assert len(document_tokens(text)) == 2
    else:
        assert document_tokens(text) == tokens.split()


def test_scripts_without_spaces_are_found_by_pairs_and_single_characters() -> None:
    index = WordIndex(
        ["\u6771\u4eac\u30bf\u30ef\u30fc", "\u4eac\u6771\u65b9\u8a00", "\u6771\u65b9", "Tokyo"]
    )
    assert [number for number, _ in index.search("\u6771\u4eac", 9)] == [0]
    assert {number for number, _ in index.search("\u6771", 9)} == {0, 1, 2}
    assert [number for number, _ in index.search("tokyo\u6771\u4eac", 9)] == [3, 0]
    korean = WordIndex(["\ud55c\uad6d\uc5b4\ub97c \ubc30\uc6b0\ub2e4"])
    assert korean.search("\ud55c\uad6d\uc5b4", 1)


def plain_bm25(texts: list[str], query: str) -> list[tuple[int, float]]:
    """Robertson's formula, one document after the other."""
    documents = [Counter(document_tokens(text)) for text in texts]
    mean = max(sum(map(Counter.total, documents)) / max(len(texts), 1), 1.0)
    found = []
    for number, counts in enumerate(documents):
        score = 0.0
        for word in query_tokens(query):
            with_word = sum(word in other for other in documents)
            idf = math.log(1 + (len(texts) - with_word + 0.5) / (with_word + 0.5))
            long = 1.2 * (1 - 0.75 + 0.75 * counts.total() / mean)
            score += idf * counts[word] * 2.2 / (counts[word] + long)
        if score:
            found.append((number, score))
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))


@pytest.mark.parametrize("query", ["red apple", "apple", "RED", "unknown", "car unknown", ""])
def test_scores_are_those_of_the_formula(query: str) -> None:
    expected = plain_bm25(TEXTS, query)
    found = WordIndex(TEXTS).search(query, 9)
    assert [number for number, _ in found] == [number for number, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], rtol=1e-12)


@given(
    st.lists(st.text("ab \u6771\u4eac", max_size=12), max_size=8),
    st.text("abc \u6771", max_size=8),
)
def test_scores_are_those_of_the_formula_for_any_texts(texts: list[str], query: str) -> None:
    expected = dict(plain_bm25(texts, query))
    found = dict(WordIndex(texts).search(query, 9))
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[n] for n in expected], list(expected.values()), rtol=1e-9)


def test_a_filter_leaves_out_texts_and_changes_no_score() -> None:
    index = WordIndex(TEXTS)
    every = dict(index.search("red apple", 9))
    wanted = np.array([False, True, True, True, True])
    assert dict(index.search("red apple", 9, wanted=wanted)) == {n: every[n] for n in (1, 2)}
    assert (
        index.search("red apple", 1, wanted=wanted)
        == index.search("red apple", 9, wanted=wanted)[:1]
    )
    assert WordIndex([]).search("red", 3) == []


def test_sparse_weights_grow_with_repetition_and_shrink_with_length() -> None:
    once = word_weights("apple pie")
    twice = word_weights("apple apple")
    (apple,) = twice
    assert twice[apple] > once[apple] > word_weights("apple " + "filler " * 500)[apple] > 0
    assert word_weights("!") == {}
    assert all(0 <= number < 2**32 for number in once)


def test_fusion_adds_reciprocal_ranks() -> None:
    fused = reciprocal_rank_fusion([["a", "b", "c"], ["c", "d"]])
    assert dict(fused) == {"a": 1 / 61, "b": 1 / 62, "c": 1 / 63 + 1 / 61, "d": 1 / 62}
    assert [name for name, _ in fused] == ["c", "a", "b", "d"], "of equal sums the smaller id"
    assert reciprocal_rank_fusion([[], []]) == []
