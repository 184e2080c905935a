"""Every engine keeps the promises of `Index`: the same answers as brute force and `matches`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from mmembed.errors import ConfigError, SpaceMismatchError, StoreError
from mmembed.search.filters import AllOf, AnyOf, Between, Filter, Not, OneOf, Under, row_filter
from mmembed.search.index import Index
from mmembed.search.rows import KINDS, Box, searchable_text
from mmembed.search.words import document_tokens, query_tokens
from tests.search.engines import (
    COUNT,
    DIMENSION,
    FINGERPRINT,
    NAMES,
    ROWS,
    VECTORS,
    Place,
    brute_force,
    engine,
    found,
    row,
    same,
    unit,
)

ODD_NAMES = (
    "../../etc/passwd",
    "<script>alert(1)</script>",
    """it's "quoted" \\ and `ticked`""",
    "'; DROP TABLE rows; --",
    "caf\u00e9 \u6771\u4eac \U0001f600 \u202egnp.exe",
    "line\u2028end\nand\ttab",
    "undecodable\udcff",
    "100% _like_ *glob* [a]",
)


@pytest.fixture(scope="module", params=NAMES)
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Index]:
    """A thousand rows; the tests only read."""
    with engine(request.param, tmp_path_factory.mktemp("filled") / "index") as make:
        place = Place(make)
        index = place.new()
        order = np.random.default_rng(3).permutation(COUNT)
        for start in range(0, COUNT, 300):
            chosen = order[start : start + 300]
            index.upsert([ROWS[number] for number in chosen], VECTORS[chosen])
        index.commit()
        yield place.open()
        place.close()


@pytest.mark.parametrize("share", [1.0, 0.1, 0.01, 0.001])
def test_search_equals_brute_force_at_every_selectivity(filled: Index, share: float) -> None:
    ordered = sorted(each.path for each in ROWS)
    chosen = np.random.default_rng(2).permutation(COUNT)[: int(share * COUNT)]
    where = OneOf("path", tuple(ordered[place] for place in chosen)) if share < 1 else None
    for query in [*unit(3, seed=11), VECTORS[5]]:
        for k in (1, 10, 70):
            same(found(filled, query, k, where=where), brute_force(query, k, where))


def test_a_batch_of_queries_answers_like_each_alone(filled: Index) -> None:
    queries = unit(4, seed=12)
    together = filled.search(queries, 5, exact=True)
    assert [filled.search(query, 5)[0] for query in queries] == together


def test_equal_scores_are_ordered_by_id(filled: Index) -> None:
    names = [name for name, _ in found(filled, VECTORS[5], 30)]
    tied = sorted(each.id for each in [ROWS[5], *ROWS[200:260]])
    assert names == tied[:30]


def some_filter(rng: np.random.Generator, depth: int = 0) -> Filter:
    leaves: list[Callable[[], Filter]] = [
        lambda: OneOf("kind", tuple(rng.choice(KINDS, rng.integers(0, 3)).tolist())),
        lambda: OneOf("suffix", tuple(rng.choice(["md", "png", "pdf", "mp4", ""], 2).tolist())),
        lambda: OneOf("page", tuple(rng.integers(0, 7, 2).tolist())),
        lambda: OneOf("duration", (float(rng.integers(0, 9)) / 2,)),
        lambda: OneOf("path", (ROWS[rng.integers(COUNT)].path, "/missing")),
        lambda: Between("page", *low_high(rng, 6)),
        lambda: Between("modified", *low_high(rng, 400 * 86_400)),
        lambda: Between("duration", *low_high(rng, 4)),
        lambda: Under(str(rng.choice(["/", "//", "/a", "/a b", "/a/b", "/a/..", "/ab", "/a_b"]))),
        lambda: Under(str(rng.choice(["/a%", "/A", ROWS[rng.integers(COUNT)].path]))),
    ]
    if depth < 3 and rng.random() < 0.6:
        inner = tuple(some_filter(rng, depth + 1) for _ in range(rng.integers(0, 4)))
        choice = rng.integers(3)
        if choice == 2:
            return Not(some_filter(rng, depth + 1))
        return AllOf(inner) if choice else AnyOf(inner)
    return leaves[rng.integers(len(leaves))]()


def low_high(rng: np.random.Generator, top: float) -> tuple[float | None, float | None]:
    low, high = sorted(rng.integers(0, int(top) + 1, 2).tolist())
    return (None if rng.random() < 0.3 else low), (None if rng.random() < 0.3 else float(high))


def test_filters_mean_what_matches_says(filled: Index) -> None:
    rng = np.random.default_rng(21)
    sizes = set()
    for _ in range(60):
        where = some_filter(rng)
        expected = sorted(each.id for each in ROWS if where.matches(each))
        assert [each.id for each in filled.rows(where)] == expected, where
        sizes.add(len(expected))
        query = unit(1, seed=len(expected))[0]
        same(found(filled, query, 3, where=where), brute_force(query, 3, where))
    assert {0, COUNT} < sizes and len(sizes) > 20, "the filters say something"


@pytest.mark.parametrize(
    "where",
    [
        Under("/"),
        Under("//"),
        Under(ROWS[0].path),
        Under("/a/.."),
        Between("page"),
        Not(Between("page")),
        Between("page", 4, 2),
        OneOf("page", (2.0, 10**6)),
        OneOf("page", (1e300, -1e300)),
        OneOf("kind", ()),
        OneOf("path", ("",)),
        AllOf(()),
        AnyOf(()),
        Not(AllOf(())),
        Not(AnyOf(())),
        AnyOf((AllOf(()), Under("/a"))),
        AllOf((AnyOf(()), Under("/a"))),
        Not(Not(Not(OneOf("duration", (0.5,))))),
    ],
    ids=str,
)
def test_filters_at_the_edge_mean_what_matches_says(filled: Index, where: Filter) -> None:
    expected = sorted(each.id for each in ROWS if where.matches(each))
    assert [each.id for each in filled.rows(where)] == expected
    query = VECTORS[0]
    same(found(filled, query, 3, where=where), brute_force(query, 3, where))
    assert len(filled.search_text("0001", 3, where=where)) == int(where.matches(ROWS[1]))


def test_words_find_the_rows_that_have_one_of_them(filled: Index) -> None:
    for text in ("apple", "Apple QUINCE", "0007", "md fig", "nowhere", "!?"):
        wanted = set(query_tokens(text))
        expected = {
            each.id for each in ROWS if wanted & set(document_tokens(searchable_text(each)))
        }
        matches = filled.search_text(text, COUNT)
        assert {match.row.id for match in matches} == expected, text
        order = [(-match.score, match.row.id) for match in matches]
        assert order == sorted(order)
    first = filled.search_text("apple", 5)
    assert first == filled.search_text("apple", COUNT)[:5]


def test_words_respect_filters(filled: Index) -> None:
    where = AllOf((OneOf("kind", ("pdf",)), Under("/a")))
    names = {match.row.id for match in filled.search_text("apple", COUNT, where=where)}
    assert names == {
        each.id for each in ROWS if where.matches(each) and "apple" in (each.text or "").split()
    }
    assert names


def test_a_rare_word_and_a_frequent_one_rank_above_one_of_them(place: Place) -> None:
    index = place.new()
    texts = ("a red bicycle", "a red car", "a red house", "the red sea", "a green bicycle shop")
    index.upsert([row(n, text=text) for n, text in enumerate(texts)], unit(5))
    index.commit()
    order = [match.row.text for match in index.search_text("red bicycle", 5)]
    assert order[0] == "a red bicycle"
    assert order[1] == "a green bicycle shop", "the rarer word counts more"
    with pytest.raises(ConfigError, match="k is 0"):
        index.search_text("red", 0)


def test_rows_come_back_whole_after_opening_again(place: Place) -> None:
    index = place.new()
    rows = [row(n, id=f"/x/{name}#page=1", path=f"/x/{name}") for n, name in enumerate(ODD_NAMES)]
    rows.append(
        row(
            50,
            kind="pdf",
            content_hash="1" * 64,
            size=2**40,
            mtime_ns=1_700_000_000_123_456_789,
            items_in_file=7,
            cut="12345678",
            page=2,
            start_seconds=0.1,
            end_seconds=2.5,
            duration_seconds=1 / 3,
            start_char=0,
            end_char=9,
            text="line\u2028end \udcff",
            boxes=(Box(0.1, 0.2, 0.3, 1 / 3, 0, 4),),
        )
    )
    vectors = unit(len(rows))
    index.upsert(rows, vectors)
    index.settings["model"] = {"name": "caf\u00e9", "parts": [1, 2.5, None]}
    index.commit()
    again = place.open()
    assert list(again.rows()) == sorted(rows, key=lambda each: each.id)
    assert again.get([each.id for each in rows]) == rows
    np.testing.assert_array_equal(again.vectors([each.id for each in rows]), vectors)
    assert again.settings["model"] == {"name": "caf\u00e9", "parts": [1, 2.5, None]}
    assert (again.fingerprint, again.dimension, len(again)) == (FINGERPRINT, DIMENSION, len(rows))
    for each in rows[: len(ODD_NAMES)]:
        assert list(again.rows(OneOf("path", (each.path,)))) == [each]
        assert list(again.rows(AllOf((Under("/x"), OneOf("path", (each.path,)))))) == [each]
    assert again.delete([each.id for each in rows[:4]]) == 4
    again.commit()
    assert set(place.open().rows()) == set(rows[4:])


def test_what_is_not_committed_is_lost(place: Place) -> None:
    index = place.new()
    index.upsert([row(1), row(2)], unit(2))
    index.commit()
    index.upsert([row(3)], unit(1, seed=3))
    index.delete([row(1).id])
    assert [each.id for each in place.open().rows()] == [row(1).id, row(2).id]


def test_a_row_that_is_written_again_is_replaced(place: Place) -> None:
    index = place.new()
    vectors = unit(3)
    index.upsert([row(1), row(2)], vectors[:2])
    index.commit()
    changed = row(1, key=f"{9:064x}", text="new")
    index.upsert([changed], vectors[2:])
    index.upsert([row(4)], vectors[:1])
    index.upsert([row(4, text="last")], vectors[:1])
    index.commit()
    again = place.open()
    assert list(again.rows()) == [changed, row(2), row(4, text="last")]
    np.testing.assert_array_equal(again.vectors([row(1).id])[0], vectors[2])
    assert [match.row.id for match in again.search_text("new", 5)] == [row(1).id]


def test_deleting_counts_rows_and_ignores_unknown_ones(place: Place) -> None:
    index = place.new()
    index.upsert([row(n) for n in range(4)], unit(4))
    index.commit()
    assert index.delete([row(1).id, row(3).id, row(3).id, "unknown"]) == 2
    assert index.delete([row(1).id]) == 0
    index.upsert([row(3)], unit(4)[3:])
    index.commit()
    assert [each.id for each in place.open().rows()] == [row(n).id for n in (0, 2, 3)]
    assert found(place.new(), unit(4)[1], 4)[0][0] != row(1).id


def test_known_vectors_are_used_again(place: Place) -> None:
    index = place.new()
    vectors = unit(2)
    index.upsert([row(1)], vectors[:1])
    index.commit()
    index.upsert([row(2)], vectors[1:])
    keys = [row(2).key, row(1).key, "f" * 64]
    known = index.known_vectors(keys)
    assert list(known) == keys[:2]
    np.testing.assert_array_equal(known[row(1).key], vectors[0])
    index.upsert([row(7, key=row(1).key), row(8, key=row(2).key)])
    with pytest.raises(KeyError, match="1 of 2 rows have no vector"):
        index.upsert([row(10, key=row(1).key), row(9)])
    index.commit()
    again = place.open()
    names = [row(n).id for n in (1, 2, 7, 8)]
    assert [each.id for each in again.rows()] == names
    np.testing.assert_array_equal(again.vectors(names), vectors[[0, 1, 0, 1]])
    assert [name for name, _ in found(again, vectors[0], 2)] == [names[0], names[2]]


def test_unknown_ids_are_named(place: Place) -> None:
    index = place.new()
    index.upsert([row(1)], unit(1))
    index.commit()
    for look in (index.get, index.vectors):
        with pytest.raises(KeyError, match="nothing"):
            look([row(1).id, "nothing"])
    assert index.get([]) == [] and index.vectors([]).shape == (0, DIMENSION)


def test_an_empty_index_answers_everything(place: Place) -> None:
    index = place.new()
    assert len(index) == 0 and list(index.rows()) == []
    assert index.search(unit(2), 5) == [[], []]
    assert index.search_text("anything", 5) == []
    assert index.delete(["x"]) == 0
    index.commit()
    index.optimize()
    stats = index.stats()
    assert (stats.rows, dict(stats.rows_by_kind)) == (0, {})
    assert len(place.open()) == 0


def test_vectors_that_make_no_sense_are_refused_before_anything_is_written(place: Place) -> None:
    index = place.new()
    with pytest.raises(ValueError, match=r"vector 1 has length 2\.0000"):
        index.upsert([row(0), row(1)], unit(2) * np.array([[1.0], [2.0]]))
    with pytest.raises(ValueError, match="length nan"):
        index.upsert([row(0)], np.full((1, DIMENSION), np.nan))
    with pytest.raises(ValueError, match=r"length 0\.0000"):
        index.upsert([row(0)], np.zeros((1, DIMENSION)))
    with pytest.raises(ValueError, match="vectors have shape"):
        index.upsert([row(0), row(1)], unit(3))
    half = unit(1)[:, : DIMENSION // 2]
    with pytest.raises(ValueError, match="vectors have shape"):
        index.upsert([row(0)], half / np.linalg.norm(half))
    index.commit()
    assert len(place.open()) == 0


def test_queries_that_make_no_sense_are_refused(filled: Index) -> None:
    with pytest.raises(ValueError, match="not finite"):
        filled.search(unit(1) * np.nan, 1)
    with pytest.raises(ValueError, match=rf"needs \(B, {DIMENSION}\)"):
        filled.search(unit(1)[:, :8], 1)
    with pytest.raises(ConfigError, match="k is 0"):
        filled.search(unit(1), 0)
    with pytest.raises(ConfigError, match="unknown kind"):
        filled.search(unit(1), 1, where=row_filter(kinds=["audio"]))


def test_a_query_of_zeros_finds_the_first_rows(filled: Index) -> None:
    expected = sorted(each.id for each in ROWS)[:5]
    assert found(filled, np.zeros(DIMENSION), 5) == [(name, 0.0) for name in expected]


def test_another_models_vectors_are_refused_naming_both(place: Place) -> None:
    place.new().commit()
    with pytest.raises(SpaceMismatchError, match=f"{FINGERPRINT}.*{'b' * 64}"):
        place.open("b" * 64, DIMENSION)
    with pytest.raises(SpaceMismatchError, match=f"{DIMENSION} dimensions"):
        place.open(FINGERPRINT, DIMENSION * 2)
    assert place.open(FINGERPRINT, DIMENSION).fingerprint == FINGERPRINT


def test_a_place_without_an_index_says_how_to_make_one(place: Place) -> None:
    with pytest.raises(StoreError, match="mmembed index"):
        place.open()
    assert len(place.new()) == 0


def test_writing_begins_from_what_is_committed(place: Place) -> None:
    index = place.new()
    index.upsert([row(1)], unit(1))
    index.settings["cut"] = "old"
    index.commit()
    index.upsert([row(2)], unit(1))
    index.settings["model"] = "mine"
    with index.writing():
        index.upsert([row(3)], unit(1))
        index.commit()
    again = place.open()
    assert [each.id for each in again.rows()] == [row(1).id, row(3).id]
    assert again.settings == {"cut": "old", "model": "mine"}


def test_optimising_and_counting_change_no_answer(place: Place) -> None:
    index = place.new()
    index.upsert(ROWS[:300], VECTORS[:300])
    index.commit()
    query = unit(1, seed=4)
    before = index.search(query, 10)
    report = index.optimize()
    assert report.recall is None or report.recall >= 0.99
    assert report.reason and report.seconds >= 0
    assert index.search(query, 10) == before
    stats = index.stats()
    assert stats.rows == len(index) == 300
    assert dict(stats.rows_by_kind) == dict.fromkeys(KINDS, 75)
    assert stats.bytes_on_disk is None or stats.bytes_on_disk > 0
