"""What items are compared by: hashes of content, words, runs of words, perceptual hashes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmembed.inspection.content import (
    item_hash,
    ngram_hashes,
    perceptual_hash,
    picture_signature,
    word_hashes,
    words_of,
)
from mmembed.types import Image, MultimodalInput
from tests.inspection.planted import emoji_picture, png, recompressed


def bits(left: int, right: int) -> int:
    return (left ^ right).bit_count()


def test_words_are_those_of_the_text_without_case_and_punctuation() -> None:
    assert words_of("The cat's hat, ISN'T it?") == ["the", "cat", "s", "hat", "isn", "t", "it"]
    assert words_of("\uff26ull x\u00b2") == words_of("full x2")


def test_chinese_and_japanese_are_split_into_letters_and_korean_at_spaces() -> None:
    assert words_of("苹果abc 手機") == ["苹", "果", "abc", "手", "機"]
    assert words_of("りんご") == ["り", "ん", "ご"]
    assert words_of("사과 하나") == ["사과", "하나"]


def test_texts_that_differ_by_a_symbol_stay_apart() -> None:
    assert len({tuple(words_of(text)) for text in ("C", "C++", "C#", "😀", "😃", "...", "")}) == 7


def test_runs_of_words_are_equal_where_the_words_are() -> None:
    words = "a b c a b d".split()
    runs = dict(ngram_hashes(word_hashes(words), 9))
    assert sorted(runs) == [1, 2, 3, 4, 5, 6]
    for length, hashes in runs.items():
        slow = [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]
        assert len(hashes) == len(slow)
        for i, one in enumerate(slow):
            for j, other in enumerate(slow):
                assert (hashes[i] == hashes[j]) == (one == other)


def test_the_order_of_words_counts() -> None:
    (_, forth), (_, back) = (
        list(ngram_hashes(word_hashes(words.split()), 2))[-1] for words in ("a b", "b a")
    )
    assert forth[0] != back[0]


def test_items_of_the_same_content_have_the_same_hash_whatever_the_file_is_called(
    tmp_path: Path,
) -> None:
    data = png(emoji_picture(40))
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(data)
    first, second = (MultimodalInput((Image(tmp_path / name),)) for name in ("a.png", "b.png"))
    assert item_hash(first) == item_hash(second) == item_hash(MultimodalInput((Image(data),)))
    assert item_hash(first) != item_hash(MultimodalInput.of({"image": data, "text": "x"}))


def test_an_instruction_counts_when_asked_for() -> None:
    plain, told = MultimodalInput.of("x"), MultimodalInput.of("x", "find it")
    assert item_hash(plain) == item_hash(told)
    assert item_hash(plain) != item_hash(told, with_instruction=True)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (33, 31), (640, 480)])
def test_pictures_of_every_size_have_a_signature(size: tuple[int, int]) -> None:
    signature = picture_signature(np.full((*size, 3), (10, 200, 30), np.uint8))
    assert signature.hash == 0  # of one colour: no frequency but the mean
    assert signature.colours == bytes((10, 200, 30)) * 4


def test_a_copy_has_nearly_the_same_hash_and_another_picture_has_not() -> None:
    picture = emoji_picture(40, size=160)
    own = perceptual_hash(picture)
    for quality, scale in ((90, 1.0), (50, 1.0), (70, 0.5), (70, 1.5)):
        assert bits(own, perceptual_hash(recompressed(picture, quality, scale))) <= 4
    others = [perceptual_hash(emoji_picture(number)) for number in range(400, 500, 10)]
    assert min(bits(own, other) for other in others) > 8


def test_a_brighter_copy_has_nearly_the_same_hash() -> None:
    picture = emoji_picture(40, size=96)
    darker = (picture * 0.8).astype(np.uint8)
    assert bits(perceptual_hash(picture), perceptual_hash(darker)) <= 2


def test_the_hash_is_that_of_the_slow_transform() -> None:
    picture = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    brightness = picture @ np.array([0.299, 0.587, 0.114])
    places = (2 * np.arange(32) + 1) * np.pi / 64
    low = np.array(
        [
            (brightness * np.outer(np.cos(v * places), np.cos(u * places))).sum()
            * (2**-0.5 if u == 0 else 1)
            * (2**-0.5 if v == 0 else 1)
            for v in range(8)
            for u in range(8)
        ][1:]
    )
    low[np.abs(low) / 16**2 < 1] = 0  # less than a level of brightness
    wanted = sum(1 << 63 - place for place in np.flatnonzero(low > np.median(low)).tolist())
    assert perceptual_hash(picture) == wanted
