"""What comes back from a model, however odd, is an answer or a sentence about what is wrong."""

from __future__ import annotations

import pytest

from mmembed.synthesis.answers import AnswerField, BadAnswer, read_answer

FIELDS = {"text": AnswerField(), "seconds": AnswerField(type="number")}


def test_an_answer_is_read_behind_thoughts_and_in_a_fence() -> None:
    text = '<think>{"no": 1}</think>\n```json\n{"text": " a ", "seconds": 2}\n```'
    assert read_answer(text, FIELDS) == {"text": "a", "seconds": 2.0}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"text": "cut \\ud83d", "seconds": 1}', "half of a surrogate pair"),
        ('{"text": "a", "seconds": 1' + "0" * 400 + "}", "seconds must be a number"),
        ('{"text": "a", "seconds": -1e999}', "seconds must be a number"),
        ('{"text": "a", "seconds": NaN}', "seconds must be a number"),
        ('{"text": "a", "seconds": true}', "seconds must be a number"),
        ('{"text": "a"}', "lacks the key seconds"),
        ('["a"]', "not an object"),
        ("[" * 100_000, "not one JSON object"),
    ],
)
def test_what_cannot_be_used_is_said(text: str, complaint: str) -> None:
    with pytest.raises(BadAnswer, match=complaint) as caught:
        read_answer(text, FIELDS)
    str(caught.value).encode()
