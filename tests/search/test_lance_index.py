"""The Lance index against the numpy one, its indexes, its versions and its damage."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmembed.errors import SpaceMismatchError, StoreError
from mmembed.search import lance_index, lance_table
from mmembed.search.exact_index import ExactIndex
from mmembed.search.filters import (
    Not,
    Under,
    row_filter,
)
from mmembed.search.index import Index
from mmembed.search.lance_index import LanceIndex
from mmembed.search.rows import KINDS, Match, Row

pytest.importorskip("lancedb")

DIMENSION = 16
SPACE = {"fingerprint": "a" * 64, "dimension": DIMENSION}


def unit(count: int, seed: int = 0, dimension: int = DIMENSION) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def row(number: int, text: str | None = None) -> Row:
    kind = KINDS[number % 4]
    return Row(
        id=f"/library/{number % 3}/{number:05d}.png",
        path=f"/library/{number % 3}/{number:05d}.png",
        kind=kind,
        key=f"{number:064x}",
        mtime_ns=1_700_000_000_123_456_789 + number,
        page=number % 10 + 1 if kind == "pdf" else None,
        text=text,
    )


def fill(index: Index, vectors: np.ndarray, batch: int = 70) -> None:
    """In shuffled batches, each committed, so that every batch is a file."""
    order = np.random.default_rng(5).permutation(len(vectors))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        index.upsert([row(int(n)) for n in chosen], vectors[chosen])
        index.commit()


def change(index: Index) -> None:
    index.delete([row(n).id for n in range(10, 40)])
    # a numpy index keeps the vector of a key
    changed = [dataclasses.replace(row(n), key=f"{n + 900:064x}") for n in range(5)]
    index.upsert(changed, unit(5, seed=8))
    index.commit()


def found(matches: list[list[Match]]) -> list[list[tuple[str, float]]]:
    return [[(match.row.id, match.score) for match in each] for each in matches]


@pytest.mark.parametrize("max_memory_bytes", [2**30, 0])
def test_search_equals_numpy_to_the_last_bit_through_commits(
    tmp_path: Path, max_memory_bytes: int
) -> None:
    vectors = unit(300)
    vectors[100:150] = vectors[7]  # ties between different rows
    numpy = ExactIndex(tmp_path / "numpy", **SPACE)
    lance = LanceIndex(tmp_path / "lance", **SPACE, max_memory_bytes=max_memory_bytes)
    queries = np.concatenate([unit(3, seed=1), vectors[7:8]])
    for step in (fill, change, LanceIndex.optimize):
        for index in (numpy, lance):
            if step is fill:
                fill(index, vectors)
            elif step is change:
                change(index)
        if step is LanceIndex.optimize:
            lance.optimize()
        for where in (None, row_filter(kinds=["pdf"], pages=(2, 5)), row_filter(kinds=["video"])):
            for k in (1, 10, 400):
                expected = numpy.search(queries, k, where=where)
                assert lance.search(queries, k, where=where) == expected, (step, where, k)
                assert found(lance.search(queries[1], k, where=where)) == found(expected[1:2])
    assert list(lance.rows()) == list(numpy.rows())
    where = Not(Under("/library/1"))
    assert list(lance.rows(where)) == list(numpy.rows(where))


def test_what_is_written_is_seen_after_commit_and_by_others_after_refresh(tmp_path: Path) -> None:
    index = LanceIndex(tmp_path, **SPACE)
    reader = LanceIndex(tmp_path)
    vectors = unit(3)
    index.upsert([row(0), row(1)], vectors[:2])
    assert len(index) == 0
    assert index.known_vectors([row(1).key])[row(1).key].tolist() == vectors[1].tolist()
    assert index.delete([row(1).id, "unknown"]) == 1
    index.settings = {"model": "somewhere"}
    index.commit()
    assert (len(index), len(reader), reader.settings) == (1, 0, {})
    reader.refresh()
    assert (len(reader), reader.settings) == (1, {"model": "somewhere"})
    assert reader.search(vectors[0], 5)[0][0].row == row(0)
    index.upsert([row(2)], vectors[2:])
    with index.writing():
        assert index.settings == {"model": "somewhere"}
        index.commit()
    assert len(index) == 1, "writing begins from what is committed"


def test_of_rows_with_one_id_the_last_counts(tmp_path: Path) -> None:
    index = LanceIndex(tmp_path, **SPACE)
    vectors = unit(3)
    index.upsert([row(0, "first"), row(1), row(0, "last")], vectors)
    index.commit()
    assert [each.text for each in index.rows()] == ["last", None]
    assert index.vectors([row(0).id]).tolist() == [vectors[2].tolist()]


def test_an_address_of_a_store_works_like_a_folder(tmp_path: Path) -> None:
    index = LanceIndex(f"file://{tmp_path}/index", **SPACE)
    fill(index, unit(5))
    assert (index.folder, index.stats().bytes_on_disk) == (None, None)
    again = LanceIndex(index.uri)
    assert list(again.rows()) == list(LanceIndex(tmp_path / "index").rows())
    assert again.search(unit(5)[2], 1)[0][0].row == row(2)
    with pytest.raises(StoreError, match="there is no index in file://"):
        LanceIndex(f"file://{tmp_path}/nothing")


def test_a_row_without_a_vector_takes_that_of_its_content(tmp_path: Path) -> None:
    index = LanceIndex(tmp_path, **SPACE)
    vectors = unit(2)
    index.upsert([row(0)], vectors[:1])
    moved = dataclasses.replace(row(0), id="elsewhere", path="/elsewhere")
    index.upsert([moved])  # known from the buffer
    index.commit()
    index.upsert([dataclasses.replace(moved, id="again")])  # known from the table
    index.commit()
    assert index.vectors(["again", row(0).id, "again"]).tolist() == [vectors[0].tolist()] * 3
    assert set(index.known_vectors([row(0).key, row(1).key])) == {row(0).key}
    with pytest.raises(KeyError, match="1 of 1 rows have no vector"):
        index.upsert([row(1)])
    with pytest.raises(ValueError, match=r"vector 1 has length 2\.0000"):
        index.upsert([row(0), row(1)], vectors * np.array([[1.0], [2.0]]))
    with pytest.raises(ValueError, match="length nan"):
        index.upsert([row(0)], np.full((1, DIMENSION), np.nan))
    with pytest.raises(ValueError, match=r"need \(2, 16\)"):
        index.upsert([row(0), row(1)], vectors[:, :8])
    with pytest.raises(KeyError, match="unknown"):
        index.get(["unknown"])
    with pytest.raises(KeyError, match="unknown"):
        index.vectors(["unknown"])


def test_the_approximate_index_is_built_measured_and_used(tmp_path: Path) -> None:
    index = LanceIndex(tmp_path, **SPACE, exact_below=500, exact_filtered_below=100)
    vectors = unit(1200)
    fill(index, vectors[:450], batch=450)
    report = index.optimize()
    assert (report.method, report.recall) == ("exact", None)
    assert "450 rows" in report.reason and "500" in report.reason
    fill(index, vectors[:1000], batch=1000)
    report = index.optimize(min_recall=0.9)
    assert report.method == "IVF_HNSW_SQ" == index.stats().method
    assert report.recall is not None and report.recall >= 0.9
    index.upsert([row(n) for n in range(1000, 1200)], vectors[1000:])
    index.commit()
    assert index.stats().unindexed_rows == 200
    queries = unit(20, seed=4)
    truth = found(index.search(queries, 10, exact=True))
    for where in (None, row_filter(kinds=["text", "image"])):
        near = found(index.search(queries, 10, where=where))
        every = found(index.search(queries, 10, where=where, exact=True))
        hits = sum(len(set(a) & set(b)) for a, b in zip(near, every, strict=True))
        assert hits >= 190, "scores and ids are those of the exact search"
    assert found(index.search(vectors[1100], 1))[0][0][0] == row(1100).id, "not indexed yet"
    few = row_filter(kinds=["pdf"], pages=(2, 2))
    assert index.search(queries, 10, where=few) == index.search(queries, 10, where=few, exact=True)
    report = index.optimize(min_recall=0.9)
    assert (report.method, index.stats().unindexed_rows) == ("IVF_HNSW_SQ", 0)
    assert found(LanceIndex(tmp_path).search(queries, 10)) == truth, "too few rows for it"


def test_an_index_that_misses_neighbours_is_dropped_with_the_reason(tmp_path: Path) -> None:
    index = LanceIndex(tmp_path, **SPACE, exact_below=100)
    fill(index, unit(300), batch=300)
    report = index.optimize(min_recall=1.1)
    assert (report.method, report.recall) == ("exact", None) and "1.1 are asked" in report.reason
    assert index.stats().method == "exact"
    assert index.optimize(min_recall=0.5).method == "IVF_HNSW_SQ"
    index.delete([each.id for each in index.rows()][50:])
    index.commit()
    assert index.optimize().method == "exact", "it has become small"


def test_optimize_frees_what_former_versions_held_and_readers_go_on(tmp_path: Path) -> None:
    index = LanceIndex(tmp_path, fingerprint="a" * 64, dimension=512, keep_seconds=0)
    vectors = unit(600, dimension=512)
    fill(index, vectors, batch=60)
    fill(index, vectors, batch=60)  # every row again
    reader = LanceIndex(tmp_path)
    lagging = reader.rows()
    first = next(lagging)
    raw = vectors.nbytes
    assert index.stats().bytes_on_disk > 2 * raw
    index.optimize()
    assert index.stats().bytes_on_disk < 1.3 * raw + 100_000
    assert first.id == row(0).id
    assert reader.search(vectors[3], 1)[0][0].row == row(3)
    assert reader.get([row(4).id]) == [row(4)]
    assert len(list(reader.rows())) == 600
    assert index.stats().rows_by_kind == {kind: 150 for kind in KINDS}


def test_commits_tidy_up_when_there_is_much_to_tidy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lance_table, "_MAX_UNINDEXED", 25)
    monkeypatch.setattr(lance_table, "_MAX_SMALL_FILES", 1000)
    index = LanceIndex(tmp_path, **SPACE)
    unindexed = []
    for start in range(0, 80, 10):
        index.upsert([row(n) for n in range(start, start + 10)], unit(10))
        index.commit()
        table = index._database.open_table("rows")
        unindexed.append(table.index_stats("words_idx").num_unindexed_rows)
    assert unindexed == [10, 20, 0, 10, 20, 30, 0, 10]
    monkeypatch.setattr(lance_table, "_MAX_SMALL_FILES", 5)
    fill(index, unit(60), batch=10)
    table = index._database.open_table("rows")
    assert table.stats()["fragment_stats"]["num_fragments"] <= 6
    assert len(list(index.rows())) == 80


def test_former_versions_stay_for_a_while(tmp_path: Path) -> None:
    index = LanceIndex(tmp_path, **SPACE)
    fill(index, unit(100), batch=10)
    reader = LanceIndex(tmp_path)
    change(index)
    index.optimize()
    assert len(list(reader.rows())) == len(reader) == 100
    reader.refresh()
    assert len(list(reader.rows())) == 70


def test_another_models_index_is_refused_naming_both(tmp_path: Path) -> None:
    fill(LanceIndex(tmp_path, **SPACE), unit(3))
    with pytest.raises(SpaceMismatchError, match=f"the index .*{'a' * 64}.*{'b' * 64}"):
        LanceIndex(tmp_path, fingerprint="b" * 64, dimension=DIMENSION)
    with pytest.raises(SpaceMismatchError, match="16 dimensions"):
        LanceIndex(tmp_path, fingerprint="a" * 64, dimension=8)


def test_an_index_made_anew_in_the_same_place_is_noticed(tmp_path: Path) -> None:
    index = LanceIndex(tmp_path / "index", **SPACE)
    fill(index, unit(20), batch=20)
    assert index.search(unit(20)[3], 1)[0][0].score == pytest.approx(1)
    shutil.rmtree(tmp_path / "index")
    fill(LanceIndex(tmp_path / "index", **SPACE), unit(20, seed=7), batch=20)
    index.refresh()
    assert index.search(unit(20, seed=7)[3], 1)[0][0].row == row(3)
    shutil.rmtree(tmp_path / "index")
    LanceIndex(tmp_path / "index", fingerprint="b" * 64, dimension=DIMENSION)
    with pytest.raises(SpaceMismatchError, match="b" * 64):
        index.refresh()


def test_a_damaged_or_absent_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="mmembed index FOLDER"):
        LanceIndex(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(StoreError, match="mmembed index FOLDER"):
        LanceIndex(tmp_path)
    index = LanceIndex(tmp_path / "index", **SPACE)
    fill(index, unit(30), batch=30)
    for data in (tmp_path / "index").rglob("data/*"):
        data.unlink()
    with pytest.raises(StoreError, match=r"cannot read the index .* damaged"):
        LanceIndex(tmp_path / "index").search(unit(1), 1)
    for manifest in (tmp_path / "index").rglob("_versions/*"):
        manifest.write_bytes(b"broken")
    with pytest.raises(StoreError, match="index"):
        LanceIndex(tmp_path / "index")
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(StoreError, match="is gone"):
        index.refresh()


def test_a_table_of_somebody_else_is_refused(tmp_path: Path) -> None:
    import lancedb

    lancedb.connect(tmp_path).create_table("rows", [{"id": "a"}])
    with pytest.raises(StoreError, match="no index of mmembed"):
        LanceIndex(tmp_path)


def test_committing_an_unchanged_index_writes_nothing(tmp_path: Path) -> None:
    index = LanceIndex(tmp_path, **SPACE)
    fill(index, unit(3))
    before = sorted(tmp_path.rglob("*"))
    index.commit()
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_index_finds_nothing(tmp_path: Path) -> None:
    index = LanceIndex(tmp_path, **SPACE)
    assert index.search(unit(2), 5) == [[], []]
    assert index.search_text("fox", 5) == list(index.rows()) == index.get([]) == []
    assert index.vectors([]).shape == (0, DIMENSION)
    assert index.optimize().method == "exact"


def test_an_index_that_cannot_be_optimized_says_so_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = LanceIndex(tmp_path, **SPACE)
    fill(index, unit(5))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lance_index, "retried", full)
    with pytest.raises(StoreError, match=r"cannot optimize .*No space left.*no row is lost"):
        index.optimize()
    assert len(list(LanceIndex(tmp_path).rows())) == 5
