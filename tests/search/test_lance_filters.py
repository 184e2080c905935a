"""Filters as SQL: what Lance finds is what `matches` says."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

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
from mmembed.search.lance_filters import original_text, sql_condition, stored_text
from mmembed.search.lance_index import LanceIndex
from mmembed.search.rows import KINDS, Row
from tests.search.engines import DIMENSION, FINGERPRINT, unit

pytest.importorskip("lancedb")

SPACE = {"fingerprint": FINGERPRINT, "dimension": DIMENSION}


def test_stored_text_keeps_order_prefixes_and_every_character() -> None:
    names = ["", "a", "a/", "a/\udcff", "a/\uffff", "a/\U0001f600", "z", "\x00", "\u00e9", "\ud7ff"]
    stored = [stored_text(name) for name in names]
    assert [original_text(each) for each in stored] == names
    assert [original_text(each) for each in sorted(stored)] == sorted(names)
    for name in names:
        assert [each.startswith("a/") for each in names] == [
            each.startswith(stored_text("a/")) for each in stored
        ], name


NAMES = ["a", "b's", "100%", "_", "back\\slash", '"q"', "\u65e5\u672c", "\udcff", "new\nline", "--"]


def random_row(rng: random.Random, number: int) -> Row:
    def maybe(value: float) -> float | None:
        return rng.choice([None, value])

    path = "/" + "/".join(rng.choices(NAMES, k=rng.randint(1, 3))) + rng.choice(["", ".PDF", ".x'"])
    page = maybe(rng.randint(1, 5))
    return Row(
        id=f"{number}",
        path=path,
        kind=rng.choice(KINDS),
        key=f"{number:064x}",
        mtime_ns=rng.choice([0, 10**9, 1_700_000_000_123_456_789, -5]),
        page=None if page is None else int(page),
        duration_seconds=maybe(rng.choice([0.0, 0.1, 1e-9, 1e22, 60.5])),
    )


def random_filter(rng: random.Random, rows: list[Row], depth: int) -> Filter:
    if depth and rng.random() < 0.7:
        if rng.random() < 0.3:
            return Not(random_filter(rng, rows, depth - 1))
        parts = [random_filter(rng, rows, depth - 1) for _ in range(rng.randint(0, 3))]
        return rng.choice([AllOf, AnyOf])(tuple(parts))
    some = rng.choice(rows)
    field = rng.choice(["kind", "path", "suffix", "page", "modified", "duration"])
    value = field_value(some, field)  # type: ignore[arg-type]
    choice = rng.random()
    if field in ("page", "modified", "duration"):
        if choice < 0.4:
            numbers = tuple(rng.choices([1, 2, 2.5, 1e22, -1, 10**300], k=rng.randint(0, 2)))
            return OneOf(field, numbers if value is None else (*numbers, value))  # type: ignore[arg-type]
        low, high = sorted(rng.choices([0, 1, 2.5, 1_700_000_000.0, 1e22], k=2))
        bounds = [rng.choice([None, low]), rng.choice([None, high])]
        return Between(field, *bounds)  # type: ignore[arg-type]
    if field == "path" and choice < 0.6:
        pieces = some.path.split("/")
        return Under("/" + "/".join(pieces[1 : rng.randint(1, len(pieces))]))
    values = (value, *(field_value(each, field) for each in rng.choices(rows, k=rng.randint(0, 2))))  # type: ignore[arg-type]
    return OneOf(field, values if rng.random() < 0.9 else ())  # type: ignore[arg-type]


def test_sql_selects_the_rows_that_a_filter_matches(tmp_path: Path) -> None:
    rng = random.Random(3)
    rows = [random_row(rng, number) for number in range(150)]
    index = LanceIndex(tmp_path, **SPACE)
    index.upsert(rows, unit(len(rows)))
    index.commit()
    sizes = set()
    for _ in range(250):
        where = random_filter(rng, rows, depth=4)
        expected = sorted(each.id for each in rows if where.matches(each))
        assert [each.id for each in index.rows(where)] == expected, where
        sizes.add(len(expected))
    assert len(sizes) > 40, "the filters are too much alike"


def test_a_filter_of_the_greatest_depth_is_understood(tmp_path: Path) -> None:
    index = LanceIndex(tmp_path, **SPACE)
    index.upsert([random_row(random.Random(n), n) for n in range(40)], unit(40))
    index.commit()
    where: Filter = Between("page", 2, 3)
    for depth in range(20):
        join = AllOf if depth % 2 else AnyOf
        where = Not(join((where, OneOf("page", (depth,)))))
    assert [each.id for each in index.rows(where)] == [
        each.id for each in index.rows() if where.matches(each)
    ]
    with pytest.raises(TypeError, match="int is no filter"):
        sql_condition(3)  # type: ignore[arg-type]
