"""What filters mean: `matches` is the definition that every database is held to."""

from __future__ import annotations

import time
from datetime import date
from typing import Any

import pytest

from mmembed.errors import ConfigError
from mmembed.search.filters import (
    AllOf,
    AnyOf,
    Between,
    Not,
    OneOf,
    Under,
    parse_filter,
    row_filter,
)
from mmembed.search.rows import Row

NOON = time.mktime((2026, 1, 31, 12, 0, 0, 0, 0, -1))
PAGE = Row(
    id="/lib/a/b.PDF#page=3",
    path="/lib/a/b.PDF",
    kind="pdf",
    page=3,
    mtime_ns=int(NOON * 1e9),
)
FILM = Row(id="/lib/film.mp4", path="/lib/film.mp4", kind="video", duration_seconds=90.0)


@pytest.mark.parametrize(
    ("filter", "page", "film"),
    [
        (OneOf("kind", ("pdf", "text")), True, False),
        (OneOf("suffix", ("pdf",)), True, False),
        (OneOf("path", ("/lib/film.mp4",)), False, True),
        (OneOf("page", (3,)), True, False),
        (OneOf("kind", ()), False, False),
        (Between("page", 3, 3), True, False),
        (Between("page", 4, None), False, False),
        (Between("duration", None, 90), False, True),
        (Between("duration"), False, True),
        (Not(Between("page", 4, None)), True, True),
        (Under("/lib/a"), True, False),
        (Under("/lib/a/"), True, False),
        (Under("/lib/a/b.PDF"), True, False),
        (Under("/li"), False, False),
        (Under("/"), True, True),
        (AllOf(()), True, True),
        (AnyOf(()), False, False),
        (AnyOf((Under("/lib/a"), OneOf("kind", ("video",)))), True, True),
        (AllOf((Under("/lib/a"), OneOf("kind", ("video",)))), False, False),
    ],
)
def test_a_filter_lets_the_rows_through_that_it_describes(
    filter: Any, page: bool, film: bool
) -> None:
    assert (filter.matches(PAGE), filter.matches(FILM)) == (page, film)


def test_a_day_lasts_from_midnight_to_midnight() -> None:
    def found(**limits: Any) -> bool:
        chosen = row_filter(**limits)
        assert chosen is not None
        return chosen.matches(PAGE)

    assert found(modified_after="2026-01-31", modified_before="2026-01-31")
    assert found(modified_after=date(2026, 1, 31))
    assert not found(modified_before="2026-01-30")
    assert not found(modified_after="2026-02-01")
    assert found(modified_before=NOON) and not found(modified_before=NOON - 1)
    assert found(modified_after="2026-01-31T11:59:59")
    assert not found(modified_after="2026-01-31T12:00:01")


def test_the_usual_filters_join_and_nothing_asked_is_no_filter() -> None:
    assert row_filter() is None
    assert row_filter(kinds=[], pages=(None, None)) is None
    assert row_filter(kinds=["pdf"]) == OneOf("kind", ("pdf",))
    assert row_filter(suffixes=[".PDF"], folder="/lib", pages=(2, None)) == AllOf(
        (OneOf("suffix", ("pdf",)), Under("/lib"), Between("page", 2, None))
    )


def test_json_says_the_same_as_python() -> None:
    assert parse_filter(
        {
            "all": [
                {"in": ["kind", ["pdf"]]},
                {"any": [{"under": "/lib"}, {"not": {"between": ["page", 2, None]}}]},
            ]
        }
    ) == AllOf(
        (
            OneOf("kind", ("pdf",)),
            AnyOf((Under("/lib"), Not(Between("page", 2, None)))),
        )
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "is none; write"),
        ([], "is none; write"),
        ({}, "is none; write"),
        ({"under": "lib"}, "no absolute folder"),
        ({"under": 3}, "no absolute folder"),
        ({"in": ["kind", "pdf"]}, "is none; write"),
        ({"in": ["kind", ["audio"]]}, "unknown kind audio"),
        ({"in": ["colour", ["red"]]}, "unknown field 'colour'"),
        ({"in": [["kind"], ["pdf"]]}, "unknown field"),
        ({"in": ["page", ["3"]]}, "page is compared with '3'"),
        ({"in": ["page", [True]]}, "page is compared with True"),
        ({"between": ["kind", 1, 2]}, "has no range"),
        ({"between": ["page", "1", 2]}, "is no bound of page"),
        ({"between": ["page", [1], 2]}, "is no bound of page"),
        ({"between": ["page", float("nan"), 2]}, "page is compared with nan; give a finite"),
        ({"between": ["page", None, 10**400]}, "integer beyond all floats; give a finite"),
        ({"in": ["duration", [1, -(10**400)]]}, "integer beyond all floats; give a finite"),
        ({"in": ["page", [float("inf")]]}, "page is compared with inf; give a finite"),
        ({"all": "kind"}, "is none; write"),
        ({"under": "/a", "not": {}}, "is none; write"),
    ],
)
def test_what_is_no_filter_is_refused_by_name(value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_filter(value)


def test_a_filter_nested_too_deep_is_refused() -> None:
    value: Any = {"under": "/"}
    for _ in range(30):
        value = {"not": value}
    with pytest.raises(ConfigError, match="nested more than"):
        parse_filter(value)


def test_a_day_at_the_end_of_the_calendar_is_refused() -> None:
    with pytest.raises(ConfigError, match="9999-12-31 is beyond"):
        row_filter(modified_before="9999-12-31")
    assert row_filter(modified_after="9999-12-31") is not None


@pytest.mark.parametrize("day", ["2026-13-01", "yesterday", ""])
def test_a_day_that_is_none_is_refused(day: str) -> None:
    with pytest.raises(ConfigError, match="is no day"):
        row_filter(modified_after=day)
