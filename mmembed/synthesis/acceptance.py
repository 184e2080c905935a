"""Rules that an answer must meet, by the names that pipelines use.

A rule looks at texts that are written as templates (`"{rewrite.text}"`), so it can compare an
answer with the row, with what was drawn and with earlier answers. What it finds wrong is a sentence
for the model, which is asked again.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field

from mmembed.config.validation import StrictModel
from mmembed.synthesis.templates import render
from mmembed.synthesis.texts import (
    count_words,
    difference,
    is_written_in,
    normalized,
    paragraphs,
    same_language,
    sentences,
    words,
)

__all__ = [
    "Accepted",
    "LabelKept",
    "Language",
    "LengthRatio",
    "MinDifference",
    "NoKeptNeighbours",
    "NotDuplicate",
    "Rule",
    "SameLanguage",
    "SegmentsApart",
    "WordCount",
    "problem_of",
]

_UNITS = {"sentence": sentences, "paragraph": paragraphs, "text": lambda text: [text]}


class Accepted:
    """Texts that rows of this run have taken, by row. Thread-safe."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}
        self._taken: dict[str, list[str]] = {}
        self._lock = threading.Lock()

    def claim(self, text: str, row: str) -> bool:
        """Whether the text, after `normalized`, is this row's: nobody else has it."""
        key = hashlib.blake2b(normalized(text).encode(), digest_size=16).hexdigest()
        with self._lock:
            if key not in self._owners:
                self._take(key, row)
            return self._owners[key] == row

    def taken_by(self, row: str) -> list[str]:
        """Hashes of what a row has taken, for `restore`."""
        with self._lock:
            return list(self._taken.get(row, ()))

    def restore(self, row: str, keys: Iterable[str]) -> None:
        """What a row took in an earlier run."""
        with self._lock:
            for key in keys:
                self._take(key, row)

    def release(self, row: str) -> None:
        """The row was rejected: others may have what it took."""
        with self._lock:
            for key in self._taken.pop(row, ()):
                del self._owners[key]

    def _take(self, key: str, row: str) -> None:
        self._owners[key] = row
        self._taken.setdefault(row, []).append(key)


class _Rule(StrictModel):
    def templates(self) -> list[str]:
        return [value for name, value in self if name not in {"rule", "unit"} and _is_text(value)]


class LengthRatio(_Rule):
    """`of` is at most `within` (0.15 = 15 %) longer or shorter than `to`, in characters."""

    rule: Literal["length_ratio"]
    of: str
    to: str
    within: float = Field(gt=0)

    def problem(self, fields: Mapping[str, Any], row: str, accepted: Accepted) -> str | None:
        length, wanted = len(render(self.of, fields)), len(render(self.to, fields))
        if abs(length - wanted) <= self.within * wanted:
            return None
        low, high = (1 - self.within) * wanted, (1 + self.within) * wanted
        return f"{_name(self.of)} has {length} characters; write between {low:.0f} and {high:.0f}"


class WordCount(_Rule):
    """`of` has about as many words as the number `about` says, by a share of `within`."""

    rule: Literal["word_count"]
    of: str
    about: str
    within: float = Field(gt=0)

    def problem(self, fields: Mapping[str, Any], row: str, accepted: Accepted) -> str | None:
        count, about = count_words(render(self.of, fields)), float(render(self.about, fields))
        slack = max(2.0, self.within * about)
        if abs(count - about) <= slack:
            return None
        return f"{_name(self.of)} has {count:.0f} words; write about {about:.0f}"


class MinDifference(_Rule):
    """Each sentence (paragraph, text) of `of` differs by `least` from the nearest one of `to`.

    `difference` of words, see `texts.py`; pieces of fewer than `least_words` words are passed over.
    """

    rule: Literal["min_difference"]
    of: str
    to: str
    unit: Literal["sentence", "paragraph", "text"] = "text"
    least: float = Field(gt=0, lt=1)
    least_words: int = Field(default=4, ge=1)

    def problem(self, fields: Mapping[str, Any], row: str, accepted: Accepted) -> str | None:
        cut = _UNITS[self.unit]
        sources = cut(render(self.to, fields))
        for piece in cut(render(self.of, fields)):
            if len(words(piece)) < self.least_words:
                continue
            found = min((difference(piece, source) for source in sources), default=1.0)
            if found <= self.least:
                return (
                    f"this {self.unit} of {_name(self.of)} is too close to the original "
                    f"({found:.0%} of it differs, more than {self.least:.0%} must): {piece[:200]}"
                )
        return None


class NoKeptNeighbours(_Rule):
    """No two adjacent sentences of `to` stand next to each other, word by word, in `of`."""

    rule: Literal["no_kept_neighbours"]
    of: str
    to: str

    def problem(self, fields: Mapping[str, Any], row: str, accepted: Accepted) -> str | None:
        source = _neighbours(render(self.to, fields))
        for pair in sorted(_neighbours(render(self.of, fields)) & source):
            return f"two adjacent sentences of {_name(self.of)} are kept verbatim: {pair[0][:150]}"
        return None


class SameLanguage(_Rule):
    rule: Literal["same_language"]
    of: str
    to: str

    def problem(self, fields: Mapping[str, Any], row: str, accepted: Accepted) -> str | None:
        if same_language(render(self.of, fields), render(self.to, fields)):
            return None
        return f"{_name(self.of)} is not in the language of {_name(self.to)}"


class Language(_Rule):
    """`of` is written in the language of the code `code` (ISO 639-1), as far as can be told."""

    rule: Literal["language"]
    of: str
    code: str

    def problem(self, fields: Mapping[str, Any], row: str, accepted: Accepted) -> str | None:
        code = render(self.code, fields)
        if is_written_in(render(self.of, fields), code):
            return None
        return f"{_name(self.of)} is not in the language {code!r}"


class NotDuplicate(_Rule):
    """`of` is neither one of `than` nor what another row of this run was accepted with."""

    rule: Literal["not_duplicate"]
    of: str
    than: tuple[str, ...] = ()

    def templates(self) -> list[str]:
        return [self.of, *self.than]

    def problem(self, fields: Mapping[str, Any], row: str, accepted: Accepted) -> str | None:
        text = render(self.of, fields)
        for other in self.than:
            if normalized(text) == normalized(render(other, fields)):
                return f"{_name(self.of)} repeats {_name(other)}; write another text"
        if accepted.claim(f"{self.of}\n{text}", row):
            return None
        return f"{_name(self.of)} has been written before; write another text"


class LabelKept(_Rule):
    rule: Literal["label_kept"]
    of: str
    to: str

    def problem(self, fields: Mapping[str, Any], row: str, accepted: Accepted) -> str | None:
        found, wanted = render(self.of, fields), render(self.to, fields)
        if normalized(found) == normalized(wanted):
            return None
        return f"{_name(self.of)} is {found!r}, but the label {wanted!r} must stay"


class SegmentsApart(_Rule):
    """Two spans of time in seconds, each forward and within the clip, with a gap between them."""

    rule: Literal["segments_apart"]
    start: str
    end: str
    other_start: str
    other_end: str
    duration: str
    gap_seconds: float = Field(ge=0)

    def problem(self, fields: Mapping[str, Any], row: str, accepted: Accepted) -> str | None:
        names = (self.start, self.end, self.other_start, self.other_end)
        start, end, other_start, other_end = (float(render(name, fields)) for name in names)
        duration = float(render(self.duration, fields))
        for first, last in ((start, end), (other_start, other_end)):
            if not 0 <= first < last <= duration + 0.05:
                return (
                    f"a segment from {first:g} to {last:g} seconds is not one of a clip of "
                    f"{duration:.1f} seconds"
                )
        gap = max(other_start - end, start - other_end)
        if gap >= self.gap_seconds:
            return None
        return f"between the two segments must be at least {self.gap_seconds:g} seconds"


Rule = Annotated[
    LengthRatio
    | WordCount
    | MinDifference
    | NoKeptNeighbours
    | SameLanguage
    | Language
    | NotDuplicate
    | LabelKept
    | SegmentsApart,
    Field(discriminator="rule"),
]


def problem_of(
    rules: tuple[Rule, ...], fields: Mapping[str, Any], *, row: str, accepted: Accepted
) -> str | None:
    """What the first broken rule says; None when all are met.

    `not_duplicate` comes last, wherever it stands: a text is taken only by a row that is otherwise
    good.
    """
    for rule in sorted(rules, key=lambda rule: isinstance(rule, NotDuplicate)):
        problem = rule.problem(fields, row, accepted)
        if problem is not None:
            return problem
    return None


def _neighbours(text: str) -> set[tuple[str, str]]:
    found = [normalized(sentence) for sentence in sentences(text)]
    return {pair for pair in pairwise(found) if all(pair)}


def _name(template: str) -> str:
    """`{rewrite.text}` as the model knows it: `text`."""
    return template.strip("{}").rpartition(".")[2]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
