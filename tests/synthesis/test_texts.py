"""Words, sentences, differences and languages of texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmembed.synthesis.texts import (
    count_words,
    difference,
    is_written_in,
    language_of,
    normalized,
    same_language,
    script_of,
    sentences,
    words,
)

TEXTS = {
    "en": "The ship is in the harbour and it has been there for a week with all of its crew.",
    "de": "Das Schiff ist im Hafen und es liegt dort mit der Besatzung auch nicht zum ersten Mal.",
    "fr": "Le navire est dans le port et les marins ne sont pas encore partis avec la marchandise.",
    "es": "El barco est\u00e1 en el puerto y los marineros no se han ido con la carga por ahora.",
    "ru": "\u041a\u043e\u0440\u0430\u0431\u043b\u044c \u0432 \u043f\u043e\u0440\u0442\u0443",
    "zh": "\u8239\u5728\u6e2f\u53e3\u91cc\u3002\u5b83\u5f88\u5927\u3002",
    "ja": "\u8239\u306f\u6e2f\u306b\u3042\u308a\u307e\u3059\u3002",
    "ko": "\ubc30\uac00 \ud56d\uad6c\uc5d0 \uc788\ub2e4",
}


@pytest.mark.parametrize("code", ["en", "de", "fr", "es", "ja", "zh", "ko"])
def test_a_language_is_told_from_script_or_frequent_words(code: str) -> None:
    assert language_of(TEXTS[code]) == code


@pytest.mark.parametrize("first", TEXTS)
@pytest.mark.parametrize("second", TEXTS)
def test_texts_of_two_languages_differ_and_those_of_one_do_not(first: str, second: str) -> None:
    assert same_language(TEXTS[first], TEXTS[second]) == (first == second)
    assert is_written_in(TEXTS[first], second) == (first == second)


def test_a_text_that_shows_no_language_is_not_accused() -> None:
    assert language_of("GPT-4 XR200") is None
    assert same_language("GPT-4 XR200", TEXTS["de"])
    assert same_language("42", TEXTS["zh"])
    assert is_written_in("tractor engine", "en") and is_written_in("tractor engine", "de")
    assert script_of("123 !?") == ""


def test_scripts_without_blanks_are_cut_into_characters() -> None:
    assert words("\u8239\u5728 port 7") == ["\u8239", "\u5728", "port", "7"]
    assert count_words("\u8239\u5728\u6e2f\u53e3") == 2
    assert count_words("I see a ship") == 4


def test_sentences_end_at_marks_of_every_script() -> None:
    assert sentences("One. Two! 3.5 is a number?\nLine") == [
        "One.", "Two!", "3.5 is a number?", "Line"]  # fmt: skip
    assert len(sentences(TEXTS["zh"])) == 2


@given(st.text(max_size=60), st.text(max_size=60))
def test_difference_is_a_share_and_zero_for_the_same_words(first: str, second: str) -> None:
    assert 0.0 <= difference(first, second) <= 1.0
    assert difference(first, first) == 0.0
    if words(first) and words(second) and not set(words(first)) & set(words(second)):
        assert difference(first, second) == 1.0


@given(st.text(max_size=60))
def test_normalizing_twice_changes_nothing_more(text: str) -> None:
    assert normalized(normalized(text)) == normalized(text)
