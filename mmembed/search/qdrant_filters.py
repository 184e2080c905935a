"""Filters and rows in Qdrant's words: what `Filter.matches` says, as conditions on payloads.

    Row -> payload -> point        Filter -> conditions -> query

A payload has a field only where the row has a value, so that a comparison without one fails and
its negation holds, as `filters` defines it. `folders` lists the file and every folder above it.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from mmembed.search.filters import (
    AllOf,
    AnyOf,
    Between,
    Filter,
    Not,
    OneOf,
    Under,
    field_value,
)
from mmembed.search.rows import Row, dump_row

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = ["KEYWORDS", "NUMBERS", "conditions", "payload", "plain", "point_id"]

KEYWORDS = ("kind", "path", "suffix", "folders", "key")
NUMBERS = ("page", "modified", "duration")


def point_id(row_id: str) -> str:
    """The UUID of a row; the id as JSON, which is ASCII whatever bytes a file's name has."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(row_id)))


def payload(row: Row) -> dict[str, Any]:
    """The row whole, as one string, and what filters look at."""
    values: dict[str, Any] = {"row": dump_row(row).decode("ascii"), "key": row.key}
    for field in ("kind", "path", "suffix", "page", "modified", "duration"):
        value = field_value(row, field)
        if value is not None:
            values[field] = plain(value) if isinstance(value, str) else value
    above = {row.path[:place] or "/" for place, letter in enumerate(row.path) if letter == "/"}
    values["folders"] = sorted(map(plain, above | {row.path}))
    return values


def plain(text: str) -> str:
    """Text that UTF-8 can carry; undecodable bytes of a name are written out, behind a NUL, which
    no path has."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "\0" + json.dumps(text)
    return text


def conditions(where: Filter) -> models.Filter | bool:
    """The filter; True or False where it lets through every row or none."""
    from qdrant_client import models

    if isinstance(where, AllOf | AnyOf):
        parts = [conditions(each) for each in where.filters]
        decides = isinstance(where, AnyOf)  # this value of one part is the value of the whole
        if decides in parts:
            return decides
        rest = [part for part in parts if not isinstance(part, bool)]
        if not rest:
            return not decides
        return models.Filter(should=rest) if decides else models.Filter(must=rest)
    if isinstance(where, Not):
        inner = conditions(where.filter)
        return not inner if isinstance(inner, bool) else models.Filter(must_not=[inner])
    if isinstance(where, Under):
        # a row in the folder has it in `folders`; "//" is above all, like "/"
        names = {where.folder, where.folder.rstrip("/") or "/"}
        return models.Filter(must=[_any_of("folders", names)])
    if isinstance(where, OneOf):
        return _one_of(where)
    if isinstance(where, Between):
        if where.low is None and where.high is None:
            empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=where.field))
            return models.Filter(must_not=[empty])
        return models.Filter(must=[_range(where.field, where.low, where.high)])
    raise TypeError(f"unknown filter {where!r}")


def _one_of(where: OneOf) -> models.Filter | bool:
    from qdrant_client import models

    texts = {value for value in where.values if isinstance(value, str)}
    if texts:
        return models.Filter(must=[_any_of(where.field, texts)])
    numbers = set(map(float, where.values))
    if not numbers:
        return False
    return models.Filter(should=[_range(where.field, each, each) for each in sorted(numbers)])


def _any_of(field: str, values: set[str]) -> models.FieldCondition:
    from qdrant_client import models

    match = models.MatchAny(any=sorted(map(plain, values)))
    return models.FieldCondition(key=field, match=match)


def _range(field: str, low: float | None, high: float | None) -> models.FieldCondition:
    from qdrant_client import models

    return models.FieldCondition(key=field, range=models.Range(gte=low, lte=high))
