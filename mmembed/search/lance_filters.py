"""Filters as SQL for Lance, and strings as its columns keep them.

    filters.Filter -> sql_condition -> prefilter of lance_index

SQL has three truth values and `Not` has two: negation is pushed down to the comparisons, and each
says itself what becomes of a row without a value.
"""

from __future__ import annotations

from collections.abc import Iterable

from mmembed.search.filters import AllOf, AnyOf, Between, Filter, Not, OneOf, Under

__all__ = ["any_of_text", "original_text", "sql_condition", "stored_text"]

_NEVER_NULL = ("kind", "path", "suffix", "modified")


def stored_text(text: str) -> str:
    """A string with one character for each byte of its UTF-8.

    Names of files may hold surrogates, which Arrow refuses. This keeps every string, its order,
    and what it begins with; ASCII stays as it is.
    """
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


def original_text(stored: str) -> str:
    """The inverse of `stored_text`."""
    return stored.encode("latin-1").decode("utf-8", "surrogatepass")


def sql_condition(where: Filter) -> str:
    """The condition that holds for the rows that `where.matches`."""
    return _condition(where, True)


def any_of_text(column: str, values: Iterable[str]) -> str:
    """The condition that a column of stored text is one of some strings."""
    return f"{column} IN ({', '.join(_quoted(value) for value in values)})"


def _condition(where: Filter, wanted: bool) -> str:
    """SQL that is true exactly where `where.matches(row) == wanted`."""
    match where:
        case Not(inner):
            return _condition(inner, not wanted)
        case AllOf(filters):
            return _joined([_condition(each, wanted) for each in filters], every=wanted)
        case AnyOf(filters):
            return _joined([_condition(each, wanted) for each in filters], every=not wanted)
        case Under():
            path, prefix = _quoted(where.folder), _quoted(where.prefix)
            if wanted:
                return f"(path = {path} OR starts_with(path, {prefix}))"
            return f"(path != {path} AND NOT starts_with(path, {prefix}))"
        case OneOf():
            return _one_of(where, wanted)
        case Between():
            return _between(where, wanted)
    raise TypeError(f"{type(where).__name__} is no filter that an index knows")


def _joined(conditions: list[str], *, every: bool) -> str:
    if not conditions:
        return "true" if every else "false"
    if len(conditions) == 1:
        return conditions[0]
    return "(" + (" AND " if every else " OR ").join(conditions) + ")"


def _one_of(where: OneOf, wanted: bool) -> str:
    if not where.values:
        return "false" if wanted else "true"
    values = ", ".join(map(_literal, where.values))
    if wanted:
        return f"{where.field} IN ({values})"
    return _or_null(where.field, f"{where.field} NOT IN ({values})")


def _between(where: Between, wanted: bool) -> str:
    field, low, high = where.field, where.low, where.high
    if low is None and high is None:
        return f"{field} IS {'NOT ' if wanted else ''}NULL"
    if wanted:
        bounds = [f"{field} >= {_number(low)}"] if low is not None else []
        bounds += [f"{field} <= {_number(high)}"] if high is not None else []
        return _joined(bounds, every=True)
    beyond = [f"{field} < {_number(low)}"] if low is not None else []
    beyond += [f"{field} > {_number(high)}"] if high is not None else []
    return _or_null(field, " OR ".join(beyond))


def _or_null(field: str, condition: str) -> str:
    return f"({condition})" if field in _NEVER_NULL else f"({condition} OR {field} IS NULL)"


def _literal(value: str | float) -> str:
    return _quoted(value) if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    return f"CAST({float(value)!r} AS DOUBLE)"


def _quoted(text: str) -> str:
    return "'" + stored_text(text).replace("'", "''") + "'"
