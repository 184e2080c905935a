"""Texts that nearly repeat each other are found by MinHash; all that is reported is similar."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest

from mmembed.inspection.content import hash_of_text, words_of
from mmembed.inspection.near_texts import MIN_SIMILARITY, TextColumn, shingles_of, similarity

WORDS = [f"word{number}" for number in range(500)]


def found_in(texts: list[str], threshold: float = MIN_SIMILARITY) -> list[tuple[int, int, float]]:
    column = TextColumn()
    for owner, text in enumerate(texts):
        column.add(text, hash_of_text(text), owner)
    return list(column.near(texts.__getitem__, threshold=threshold))


def slow_similarity(left: str, right: str) -> float:
    def shingles(text: str) -> set[tuple[str, ...]]:
        words = words_of(text)
        size = min(3, len(words))
        return {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}

    one, other = shingles(left), shingles(right)
    return len(one & other) / len(one | other)


def some_texts(seed: int, count: int = 60) -> list[str]:
    """Different texts, and copies of them with up to four words replaced."""
    rng = Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(20, 80))) for _ in range(count)]
    for text in texts[:count]:
        words = text.split()
        for _ in range(rng.randint(0, 4)):
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("seed", range(3))
def test_nearly_all_similar_pairs_are_found_and_no_others(seed: int) -> None:
    texts = some_texts(seed)
    slow = {
        later
        for (earlier, one), (later, other) in combinations(enumerate(texts), 2)
        if one != other and slow_similarity(one, other) >= MIN_SIMILARITY
    }
    found = found_in(texts)
    for owner, earlier, share in found:
        assert earlier < owner
        assert share == pytest.approx(slow_similarity(texts[owner], texts[earlier]))
    assert {owner for owner, *_ in found} <= slow
    assert len(found) >= 0.97 * len(slow) > 10


def test_case_and_punctuation_make_no_difference() -> None:
    assert found_in(["A dog, asleep.", "a cat", "a DOG asleep"]) == [(2, 0, 1.0)]


def test_texts_that_repeat_exactly_are_left_to_others() -> None:
    assert not found_in(["a dog asleep", "a cat", "a dog asleep"])


def test_short_texts_that_differ_in_a_word_are_different() -> None:
    assert not found_in(["a photo of a dog", "a photo of a cat", "dog", "cat", "7", "8"])


def test_each_text_is_named_once_however_many_are_alike() -> None:
    base = " ".join(WORDS[:60])
    texts = [f"{base} {word}" for word in WORDS[100:140]]
    assert [(owner, earlier) for owner, earlier, _ in found_in(texts)] == [
        (owner, 0) for owner in range(1, 40)
    ]


def test_a_long_text_costs_no_memory_for_each_of_its_words() -> None:
    text = " ".join(Random(1).choices(WORDS, k=30_000))
    column = TextColumn()
    column.add(text, 1, 0)
    assert column.num_bytes == 80


def test_similarity_is_jaccard() -> None:
    left, right = shingles_of("a b c d"), shingles_of("b c d e")
    assert similarity(left, right) == pytest.approx(1 / 3)
    assert similarity(left, left) == 1.0
