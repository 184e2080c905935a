"""Which rows a search may return: a small language that every index understands alike.

    row_filter(kinds=["pdf"], folder="/home/ada/papers", modified_after="2026-01-01")
    parse_filter({"all": [{"in": ["kind", ["pdf"]]}, {"under": "/home/ada/papers"}]})

`matches` is the definition; the databases translate the same tree into their own words and are
tested against it. A row without a value (a picture has no page) fulfils no comparison with it,
and `Not` is plain negation of that.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import PurePath
from typing import Any, Literal, Protocol, get_args

from mmembed.errors import ConfigError
from mmembed.search.rows import KINDS, Row

__all__ = [
    "FIELDS",
    "AllOf",
    "AnyOf",
    "Between",
    "Field",
    "Filter",
    "Not",
    "OneOf",
    "Under",
    "field_value",
    "parse_filter",
    "row_filter",
]

Field = Literal["kind", "path", "suffix", "page", "modified", "duration"]
FIELDS: tuple[Field, ...] = get_args(Field)
_TEXT_FIELDS = ("kind", "path", "suffix")
_MAX_DEPTH = 20


class Filter(Protocol):
    """A condition on a row."""

    def matches(self, row: Row) -> bool: ...


def field_value(row: Row, field: Field) -> str | float | None:
    """`modified` in seconds since 1970, `duration` in seconds of the whole video."""
    if field == "duration":
        return row.duration_seconds
    value: str | float | None = getattr(row, field)
    return value


@dataclass(frozen=True)
class OneOf:
    """The field is one of some values."""

    field: Field
    values: tuple[str | float, ...]

    def __post_init__(self) -> None:
        _check_field(self.field)
        wanted = str if self.field in _TEXT_FIELDS else (int, float)
        for value in self.values:
            if isinstance(value, bool) or not isinstance(value, wanted):
                raise ConfigError(f"filter: {self.field} is compared with {value!r}")
            if not isinstance(value, str):
                _check_finite(self.field, value)
        if self.field == "kind":
            unknown = sorted(set(map(str, self.values)) - set(KINDS))
            if unknown:
                raise ConfigError(f"unknown kind {', '.join(unknown)}; known: {', '.join(KINDS)}")

    def matches(self, row: Row) -> bool:
        return field_value(row, self.field) in self.values


@dataclass(frozen=True)
class Between:
    """low <= field <= high; None leaves a side open. Numbers only."""

    field: Field
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        _check_field(self.field)
        if self.field in _TEXT_FIELDS:
            raise ConfigError(f"filter: {self.field} is text and has no range")
        for bound in (self.low, self.high):
            if bound is None:
                continue
            if isinstance(bound, bool) or not isinstance(bound, int | float):
                raise ConfigError(f"filter: {bound!r} is no bound of {self.field}; give a number")
            _check_finite(self.field, bound)

    def matches(self, row: Row) -> bool:
        value = field_value(row, self.field)
        if value is None:
            return False
        assert not isinstance(value, str)
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True)
class Under:
    """The file lies in this folder or below it, or is it. Absolute, no trailing slash."""

    folder: str

    def __post_init__(self) -> None:
        if not isinstance(self.folder, str) or not PurePath(self.folder).is_absolute():
            raise ConfigError(f"filter: {self.folder!r} is no absolute folder")
        object.__setattr__(self, "folder", str(PurePath(self.folder)))

    @property
    def prefix(self) -> str:
        """What paths below the folder begin with."""
        return self.folder.rstrip("/") + "/"

    def matches(self, row: Row) -> bool:
        return row.path == self.folder or row.path.startswith(self.prefix)


@dataclass(frozen=True)
class AllOf:
    """Every one of the filters; of none, every row."""

    filters: tuple[Filter, ...]

    def matches(self, row: Row) -> bool:
        return all(each.matches(row) for each in self.filters)


@dataclass(frozen=True)
class AnyOf:
    """At least one of the filters; of none, no row."""

    filters: tuple[Filter, ...]

    def matches(self, row: Row) -> bool:
        return any(each.matches(row) for each in self.filters)


@dataclass(frozen=True)
class Not:
    """The rows that the filter leaves out."""

    filter: Filter

    def matches(self, row: Row) -> bool:
        return not self.filter.matches(row)


def row_filter(
    *,
    kinds: Collection[str] | None = None,
    suffixes: Collection[str] | None = None,
    folder: str | PurePath | None = None,
    modified_after: str | date | float | None = None,
    modified_before: str | date | float | None = None,
    pages: tuple[int | None, int | None] | None = None,
    duration: tuple[float | None, float | None] | None = None,
) -> Filter | None:
    """The usual filters together; None where nothing is asked.

    Args:
        modified_after, modified_before: a day (`2026-01-31`), a time in ISO 8601, or seconds since
            1970. Days are of the local time zone; "before" a day includes that day.
        pages: first and last page, 1-based; `duration`: seconds of the whole video.

    Raises:
        ConfigError: naming the value that makes no sense.
    """
    found: list[Filter] = []
    if kinds:
        found.append(OneOf("kind", tuple(kinds)))
    if suffixes:
        found.append(OneOf("suffix", tuple(name.lstrip(".").lower() for name in suffixes)))
    if folder is not None:
        found.append(Under(str(folder)))
    after, before = _moment(modified_after, is_end=False), _moment(modified_before, is_end=True)
    if after is not None or before is not None:
        found.append(Between("modified", after, before))
    for field, bounds in (("page", pages), ("duration", duration)):
        if bounds is not None and bounds != (None, None):
            found.append(Between(field, *bounds))  # type: ignore[arg-type]
    if len(found) < 2:
        return found[0] if found else None
    return AllOf(tuple(found))


def parse_filter(value: Any, *, depth: int = 0) -> Filter:
    """A filter as JSON: {"in": [field, [values]]}, {"between": [field, low, high]},
    {"under": folder}, {"all": [...]}, {"any": [...]}, {"not": ...}.

    Raises:
        ConfigError: naming the piece that is no filter.
    """
    if depth > _MAX_DEPTH:
        raise ConfigError(f"filter: nested more than {_MAX_DEPTH} deep")
    if isinstance(value, Mapping) and len(value) == 1:
        ((word, inner),) = value.items()
        if word == "under":
            return Under(inner)
        if word == "not":
            return Not(parse_filter(inner, depth=depth + 1))
        if word in ("all", "any") and isinstance(inner, Sequence) and not isinstance(inner, str):
            filters = tuple(parse_filter(each, depth=depth + 1) for each in inner)
            return AllOf(filters) if word == "all" else AnyOf(filters)
        if word == "in" and isinstance(inner, list | tuple) and len(inner) == 2:
            if isinstance(inner[1], list | tuple):
                return OneOf(inner[0], tuple(inner[1]))
        if word == "between" and isinstance(inner, list | tuple) and len(inner) == 3:
            return Between(*inner)
    raise ConfigError(
        f"filter: {str(value)[:80]!r} is none; write {{'in': [field, [values]]}}, {{'between': "
        "[field, low, high]}, {'under': folder}, {'all': [...]}, {'any': [...]} or {'not': ...}"
    )


def _check_field(field: Any) -> None:
    if field not in FIELDS:
        raise ConfigError(f"filter: unknown field {field!r}; known: {', '.join(FIELDS)}")


def _check_finite(field: Field, value: float) -> None:
    if not abs(value) <= sys.float_info.max:  # also of NaN and of integers beyond all floats
        shown = "an integer beyond all floats" if isinstance(value, int) else repr(value)
        raise ConfigError(f"filter: {field} is compared with {shown}; give a finite number")


def _moment(value: str | date | float | None, *, is_end: bool) -> float | None:
    """Seconds since 1970; a day as its first or its last moment."""
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value) if len(value) == 10 else datetime.fromisoformat(value)
        except ValueError:
            raise ConfigError(
                f"{value!r} is no day (2026-01-31) and no time (2026-01-31T12:00:00)"
            ) from None
    try:
        if isinstance(value, datetime):
            return value.timestamp()
        start = datetime(value.year, value.month, value.day)
        return (start + timedelta(days=1)).timestamp() - 1e-6 if is_end else start.timestamp()
    except (OverflowError, ValueError, OSError):  # the last day of year 9999, the first of year 1
        raise ConfigError(f"{value} is beyond the days that can be compared") from None
