"""Cells of text tables as items and examples; all modules of this folder make theirs here."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, TypeVar

from data_adapters.cells import shortened
from data_adapters.document_ids import document_ids
from mmembed.errors import InputError
from mmembed.types import ContrastiveExample, MultimodalInput, Task, Text

__all__ = ["drawn", "example", "item", "number", "text", "titled"]

T = TypeVar("T")


def text(cell: Any, column: str, where: str) -> str:
    """The text of a cell.

    Raises:
        InputError: it holds something else, is empty, or cannot be written as UTF-8.
    """
    if not isinstance(cell, str):
        raise InputError(
            "invalid_type", f"{where}, {column!r}: found {shortened(cell)}; expected a text"
        )
    if not cell or cell.isspace():
        raise InputError("empty", f"{where}, {column!r}: the text is empty")
    if not cell.isascii():
        try:
            cell.encode()
        except UnicodeEncodeError:
            raise InputError(
                "invalid_text", f"{where}, {column!r}: half of a surrogate pair in the text"
            ) from None
    return cell


def number(cell: Any, column: str, where: str) -> float:
    """A finite number, also written as text (as in CSV).

    Raises:
        InputError: it is something else.
    """
    try:
        found = float(cell) if isinstance(cell, str | int | float) else float("nan")
    except ValueError:
        found = float("nan")
    if not abs(found) < float("inf"):
        raise InputError(
            "invalid_type", f"{where}, {column!r}: found {shortened(cell)}; expected a number"
        )
    return found


def titled(title: Any, body: str, separator: str) -> str:
    """A passage as it is embedded: `title`, `separator`, `body`; the body where there is no title.

    Everything that joins a title and a text does it here.
    """
    return f"{title}{separator}{body}" if title and isinstance(title, str) else body


def item(words: str, instruction: str | None = None) -> MultimodalInput:
    return MultimodalInput((Text(words),), instruction)


def drawn(entries: Sequence[T], most: int | None, key: str) -> Sequence[T]:
    """At most `most` of the entries, in their order; the same ones for the same key."""
    if most is None or len(entries) <= most:
        return entries
    places = sorted(Random(key).sample(range(len(entries)), most))
    return [entries[place] for place in places]


def example(
    task: Task,
    query: MultimodalInput,
    positives: Sequence[str],
    negatives: Sequence[str] = (),
    **more: Any,
) -> ContrastiveExample:
    """An example whose documents are texts, with ids of their content.

    A negative that says what a positive says is left out, with its score and its label: sources
    have the same passage under two ids, and two classes of one name.
    """
    right = set(positives)
    if not right.isdisjoint(negatives):
        kept = [place for place, one in enumerate(negatives) if one not in right]
        negatives = [negatives[place] for place in kept]
        if labels := more.get("negative_labels"):
            more["negative_labels"] = tuple(labels[place] for place in kept)
        if scores := more.get("scores"):
            more["scores"] = (
                *scores[: len(positives)],
                *(scores[len(positives) + place] for place in kept),
            )
    documents = tuple(map(item, positives))
    return ContrastiveExample(
        query=query,
        positives=documents,
        hard_negatives=tuple(map(item, negatives)),
        task=task,
        positive_ids=document_ids(documents),
        **more,
    )
