"""Acceptance rules: what they let through and what they send back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mmembed.synthesis.acceptance import Accepted, Rule, problem_of
from mmembed.synthesis.answers import AnswerField, BadAnswer, json_schema, read_answer
from mmembed.synthesis.templates import MissingField, fields_in, render
from mmembed.synthesis.texts import difference

RULES: TypeAdapter[Any] = TypeAdapter(Rule)
WORDS = st.lists(st.sampled_from("one two three four five six seven eight".split()), min_size=4)


def problem(fields: dict[str, Any], accepted: Accepted | None = None, /, **rule: Any) -> str | None:
    parsed = RULES.validate_python({"of": "{s.a}", "to": "{b}", **rule})
    return problem_of((parsed,), fields, row="1", accepted=accepted or Accepted())


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([0.15, 0.2]))
def test_length_ratio_is_the_closed_form(length: int, wanted: int, within: float) -> None:
    fields = {"s.a": "x" * length, "b": "x" * wanted}
    found = problem(fields, rule="length_ratio", within=within)
    assert (found is None) == (abs(length / wanted - 1) <= within + 1e-12)


@given(WORDS, WORDS, st.sampled_from([0.2, 0.3, 0.5]))
def test_min_difference_of_one_sentence_is_its_difference(
    first: list[str], second: list[str], least: float
) -> None:
    fields = {"s.a": " ".join(first), "b": " ".join(second)}
    found = problem(fields, rule="min_difference", least=least)
    assert (found is None) == (difference(fields["s.a"], fields["b"]) > least)


@given(st.lists(st.lists(WORDS, min_size=2, max_size=3), min_size=2, max_size=4))
def test_a_sentence_that_was_kept_anywhere_is_found(texts: list[list[list[str]]]) -> None:
    source = ". ".join(" ".join(words) for words in texts[0]) + "."
    kept = " ".join(texts[0][-1])
    fields = {"s.a": f"Wholly other matter stands here now. {kept}.", "b": source}
    assert "too close" in str(problem(fields, rule="min_difference", unit="sentence", least=0.3))


def test_paragraphs_are_compared_with_the_nearest_one() -> None:
    source = "a b c d e f\nu v w x y z"
    near, far = "z y x w v u\nb a d c f e", "g h i j k l"
    rule = {"rule": "min_difference", "unit": "paragraph", "least": 0.2}
    assert problem({"s.a": far, "b": source}, **rule) is None
    assert problem({"s.a": f"{far}\nu v w x y q", "b": source}, **rule) is not None
    assert problem({"s.a": near, "b": source}, **rule) is None


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [
        ("First one. Second one. New.", True),
        ("first ONE! Second, one. New.", True),  # as words, not as characters
        ("First one. New. Second one.", False),
        ("Second one. First one.", False),
        ("First one.", False),
    ],
)
def test_two_neighbours_may_not_both_stay(text: str, is_kept: bool) -> None:
    fields = {"s.a": text, "b": "First one. Second one. Third one."}
    assert (problem(fields, rule="no_kept_neighbours") is not None) == is_kept


def test_a_text_belongs_to_the_first_row_that_took_it() -> None:
    accepted = Accepted()
    assert accepted.claim("A  cat!", "1") and accepted.claim("a cat", "1")
    assert not accepted.claim("A cat", "2")
    accepted.release("1")
    assert accepted.claim("a cat", "2")
    later = Accepted()
    later.restore("2", accepted.taken_by("2"))
    assert not later.claim("A CAT", "3")


def test_a_duplicate_is_refused_only_after_all_other_rules() -> None:
    accepted = Accepted()
    rules = tuple(
        RULES.validate_python(rule)
        for rule in (
            {"rule": "not_duplicate", "of": "{s.a}", "than": ["{b}"]},
            {"rule": "label_kept", "of": "{s.label}", "to": "{label}"},
        )
    )
    fields = {"s.a": "text", "b": "other", "s.label": "Cat", "label": "dog"}
    assert "label" in str(problem_of(rules, fields, row="1", accepted=accepted))
    assert not accepted.taken_by("1")
    fields["label"] = "cat "
    assert problem_of(rules, fields, row="1", accepted=accepted) is None
    assert "before" in str(problem_of(rules, fields, row="2", accepted=accepted))
    fields["b"] = "TEXT."
    assert "repeats" in str(problem_of(rules, fields, row="1", accepted=accepted))


@pytest.mark.parametrize(
    ("spans", "is_good"),
    [
        ((0, 2, 4, 6), True),
        ((4, 6, 0, 2), True),
        ((0, 2, 3, 6), False),  # too near
        ((0, 4, 2, 6), False),  # overlap
        ((2, 0, 4, 6), False),  # backwards
        ((0, 2, 8, 11), False),  # behind the end
    ],
)
def test_segments_are_apart_and_inside(spans: tuple[float, ...], is_good: bool) -> None:
    names = ("start", "end", "other_start", "other_end")
    fields = {f"s.{name}": value for name, value in zip(names, spans, strict=True)}
    rule = {name: f"{{s.{name}}}" for name in names}
    parsed = RULES.validate_python(
        {"rule": "segments_apart", **rule, "duration": "{duration}", "gap_seconds": 2}
    )
    fields["duration"] = 10.0
    found = problem_of((parsed,), fields, row="1", accepted=Accepted())
    assert (found is None) == is_good


def test_word_count_leaves_short_texts_two_words() -> None:
    fields = {"s.a": "one two three", "about": "5"}
    rule = {"rule": "word_count", "of": "{s.a}", "about": "{about}", "within": 0.2}
    parsed = RULES.validate_python(rule)
    assert problem_of((parsed,), fields, row="1", accepted=Accepted()) is None
    fields["about"] = "10"
    assert "about 10" in str(problem_of((parsed,), fields, row="1", accepted=Accepted()))


FIELDS = {
    "kind": AnswerField(values=("a", "b")),
    "count": AnswerField(type="integer", least=1, most=3),
    "names": AnswerField(type="strings"),
}
GOOD = {"kind": "a", "count": 2, "names": ["x"]}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        f"```json\n{json.dumps(GOOD, indent=1)}\n```",
        f"<think>let {{me}} see</think>\n{json.dumps(GOOD)}",
        json.dumps({**GOOD, "more": 1}),
    ],
)
def test_a_good_answer_is_read_in_the_forms_that_models_give(text: str) -> None:
    assert read_answer(text, FIELDS) == GOOD


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "empty"),
        ("  ", "empty"),
        ('{"kind": "a", ', "not one JSON object"),
        ("Sure! {}", "not one JSON object"),
        ("[]", "not an object"),
        ("{}", "lacks the key kind, count, names"),
        (json.dumps({**GOOD, "kind": "c"}), "one of a, b"),
        (json.dumps({**GOOD, "kind": 3}), "non-empty string"),
        (json.dumps({**GOOD, "count": 4}), "at most 3"),
        (json.dumps({**GOOD, "count": True}), "must be a number"),
        (json.dumps({**GOOD, "count": 1.5}), "whole number"),
        (json.dumps({**GOOD, "names": ["", "x"]}), "list of non-empty strings"),
    ],
)
def test_a_bad_answer_says_what_is_wrong_with_it(text: str | None, said: str) -> None:
    with pytest.raises(BadAnswer, match=said):
        read_answer(text, FIELDS)


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        read_answer(text, FIELDS)
    except BadAnswer:
        pass


def test_the_schema_asks_for_all_keys_and_no_other() -> None:
    schema = json_schema(FIELDS)
    assert schema["required"] == list(FIELDS) and schema["additionalProperties"] is False
    assert schema["properties"]["kind"]["enum"] == ["a", "b"]
    assert schema["properties"]["names"] == {"type": "array", "items": {"type": "string"}}


@given(st.text(max_size=40).filter(str.strip))
def test_what_stands_in_a_field_is_never_read_as_a_template(value: str) -> None:
    assert render("<{a}>", {"a": value + "{b}", "b": "secret"}) == f"<{value}{{b}}>"


def test_braces_that_are_no_field_stay() -> None:
    template = 'like {"kind": "a"} or { x } for {s.a}'
    assert fields_in(template) == ["s.a"]
    assert render(template, {"s.a": 5}) == 'like {"kind": "a"} or { x } for 5'
    for missing in (None, " ", []):
        with pytest.raises(MissingField, match="no s"):
            render(template, {"s.a": missing})
