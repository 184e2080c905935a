"""What is wrong within one row: empty or damaged texts, a positive that is also something else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmembed.inspection.content import item_text
from mmembed.sources import kind_of_suffix
from mmembed.types import ContrastiveExample, MultimodalInput, Text

__all__ = ["encoding_damage", "equal_items", "text_faults"]

_MOJIBAKE_SHARE = 0.2  # of the letters beyond ASCII
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_SHOWN = 40
_FILE_NAME = re.compile(r"\S+\.\w{2,4}")
_LONGEST_NAME = 1000
_MEDIA_KEYS = frozenset({"image", "video", "pdf"})


def text_faults(field: str, item: MultimodalInput) -> Iterator[tuple[str, str]]:
    """(kind, message) of the texts of an item."""
    text = item_text(item)
    if all(isinstance(part, Text) for part in item.parts) and not text.strip():
        yield "empty", f"found {text[:_SHOWN]!r}; a text must have letters, or an item media"
        return
    damage = encoding_damage(text)
    if damage:
        yield "encoding", damage
    for part in item.parts:
        if isinstance(part, Text) and _names_media(part.text):
            yield (
                "media_as_text",
                f"{part.text[:_SHOWN]!r} is read as a text; a picture, clip or PDF file is "
                '{"image": PATH}, {"video": PATH} or {"pdf": PATH}',
            )


def _names_media(text: str) -> bool:
    """The name of a file, or an item as JSON, that was not read as one."""
    text = text.strip()
    if text[:1] == "{":
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return False
        return isinstance(found, dict) and not _MEDIA_KEYS.isdisjoint(found)
    if len(text) > _LONGEST_NAME or not _FILE_NAME.fullmatch(text):
        return False
    return kind_of_suffix(Path(text)) is not None


def encoding_damage(text: str) -> str:
    """What shows that a text was read in the wrong encoding; empty for a sound text."""
    lost = text.count("\ufffd")
    if lost:
        return f"{lost:,} replacement characters (U+FFFD) {_around(text, text.index(chr(0xFFFD)))}"
    control = _CONTROL.search(text)
    if control:
        return f"control character U+{ord(control[0]):04X} {_around(text, control.start())}"
    damaged = total = 0
    first: tuple[int, str, str] | None = None
    for run in _BEYOND_ASCII.finditer(text):
        total += len(run[0])
        meant = _meant(run[0])
        if meant:
            damaged += len(run[0])
            first = first or (run.start(), run[0], meant)
    if first is not None and damaged >= _MOJIBAKE_SHARE * total:
        at, found, meant = first
        return (
            f"{damaged / total:.0%} of the letters beyond ASCII are UTF-8 read as cp1252: "
            f"{found[:_SHOWN]!r} is {meant[:_SHOWN]!r} {_around(text, at)}"
        )
    return ""


def _meant(letters: str) -> str:
    """What the letters are when their cp1252 bytes are read as UTF-8; empty: nothing."""
    try:
        data = b"".join(_cp1252(letter) for letter in letters)
        return data.decode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError):
        return ""


def _cp1252(letter: str) -> bytes:
    """Bytes without a letter in cp1252 stand for themselves, as browsers read them."""
    try:
        return letter.encode("cp1252")
    except UnicodeEncodeError:
        return letter.encode("latin-1")


def _around(text: str, at: int) -> str:
    return f"in {text[max(0, at - _SHOWN // 2) : at + _SHOWN // 2]!r}"


def equal_items(
    example: ContrastiveExample, hashes: Sequence[int | None]
) -> Iterator[tuple[str, str, str]]:
    """(kind, field, message); `hashes` of the query, the positives and the negatives."""
    query = hashes[0]
    positives = hashes[1 : 1 + len(example.positives)]
    negatives = hashes[1 + len(example.positives) :]
    for number, positive in enumerate(positives):
        if positive is None:
            continue
        if positive == query:
            yield "query_is_positive", f"positives[{number}]", "equal to the query"
        if positive in negatives:
            where = f"negatives[{negatives.index(positive)}]"
            yield "positive_in_negatives", f"positives[{number}]", f"equal to {where}"
