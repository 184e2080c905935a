"""Exact search against brute force, and the index folder's states."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mmembed.search.exact_scores
from mmembed.errors import ConfigError, SpaceMismatchError, StoreError
from mmembed.search.exact_index import ExactIndex
from mmembed.search.filters import row_filter
from mmembed.search.rows import Row

DIMENSION = 16
SPACE = {"fingerprint": "a" * 64, "dimension": DIMENSION}


def unit(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def row(number: int, kind: str = "image", key: int | None = None) -> Row:
    name = f"/photos/{number:05d}.png"
    key = number if key is None else key
    return Row(id=name, path=name, kind=kind, key=f"{key:064x}")  # type: ignore[arg-type]


def filled(folder: Path, vectors: np.ndarray, shard: int = 37) -> ExactIndex:
    """Rows go in shuffled, so neither ids nor shards are in insertion order."""
    index = ExactIndex(folder, **SPACE)
    order = np.random.default_rng(5).permutation(len(vectors))
    kinds = ("image", "text", "video", "pdf")
    for start in range(0, len(order), shard):
        chosen = order[start : start + shard]
        index.upsert([row(n, kinds[n % 4]) for n in chosen], vectors[chosen])
    return index


def brute_force(
    vectors: np.ndarray, query: np.ndarray, allowed: np.ndarray, k: int
) -> list[tuple[str, float]]:
    scores = [
        (-float((vectors[n].astype(np.float64) * query.astype(np.float64)).sum()), row(n).id)
        for n in np.flatnonzero(allowed)
    ]
    return [(name, -score) for score, name in sorted(scores)[:k]]


@pytest.mark.parametrize("k", [1, 10, 400])
def test_search_equals_brute_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    monkeypatch.setattr(mmembed.search.exact_scores, "_BLOCK_ROWS", 16)
    monkeypatch.setattr(mmembed.search.exact_scores, "_BLOCK_QUERIES", 2)
    vectors = unit(300)
    vectors[100:130] = vectors[7]  # ties between different contents
    index = filled(tmp_path, vectors)
    queries = np.concatenate([unit(4, seed=1), vectors[7:8]])
    for kinds in (None, ["text"], ["video", "pdf"]):
        names = np.array(("image", "text", "video", "pdf"))[np.arange(300) % 4]
        allowed = np.isin(names, kinds) if kinds else np.ones(300, dtype=bool)
        answers = index.search(queries, k, where=row_filter(kinds=kinds))
        for query, matches in zip(queries, answers, strict=True):
            expected = brute_force(vectors, query, allowed, k)
            assert [(match.row.id, match.score) for match in matches] == expected


def test_ties_are_ordered_by_id_across_shards_and_for_shared_vectors(tmp_path: Path) -> None:
    vector = unit(1)
    index = ExactIndex(tmp_path, **SPACE)
    for number in (3, 1, 2):
        index.upsert([row(number)], vector)
    index.upsert([row(9, key=1), row(0, key=1)])
    found = index.search(vector, 4)[0]
    assert [match.row.id for match in found] == [row(n).id for n in (0, 1, 2, 3)]
    assert len({match.score for match in found}) == 1


def test_differences_below_float32_rounding_are_ranked_exactly(tmp_path: Path) -> None:
    noise = np.random.default_rng(4).normal(size=(200, DIMENSION))
    vectors = (unit(1) * (1 + 1e-7 * noise)).astype(np.float32)
    index = filled(tmp_path, vectors)
    for query in unit(30, seed=6):
        found = [(match.row.id, match.score) for match in index.search(query, 3)[0]]
        assert found == brute_force(vectors, query, np.ones(200, dtype=bool), 3)


def test_a_query_ranks_the_same_alone_and_in_a_batch(tmp_path: Path) -> None:
    index = filled(tmp_path, unit(200))
    queries = unit(50, seed=2)
    together = index.search(queries, 5)
    assert [index.search(query, 5)[0] for query in queries] == together


def test_committed_rows_come_back_and_uncommitted_rows_do_not(tmp_path: Path) -> None:
    index = filled(tmp_path, unit(20))
    index.settings = {"model": "somewhere"}
    index.commit()
    index.upsert([row(99)], unit(1, seed=3))
    index.delete([row(0).id, "unknown"])
    again = ExactIndex(tmp_path)
    assert len(again) == 20
    assert again.settings == {"model": "somewhere"}
    assert list(again.rows()) == sorted(again.rows(), key=lambda row: row.id)
    index.commit()
    assert {r.id for r in ExactIndex(tmp_path).rows()} == {row(n).id for n in [*range(1, 20), 99]}
    assert len(list(tmp_path.glob("rows-*.jsonl"))) == 1


def test_a_deleted_row_is_not_found_and_its_vector_is_free_to_return(tmp_path: Path) -> None:
    vectors = unit(3)
    index = filled(tmp_path, vectors)
    assert index.delete([row(1).id]) == 1
    assert row(1).id not in {match.row.id for match in index.search(vectors[1], 3)[0]}
    index.upsert([row(1)])
    assert index.search(vectors[1], 1)[0][0].row == row(1)


def test_rows_without_a_unit_vector_are_refused(tmp_path: Path) -> None:
    index = ExactIndex(tmp_path, **SPACE)
    with pytest.raises(ValueError, match=r"vector 1 has length 2\.0000"):
        index.upsert([row(0), row(1)], unit(2) * np.array([[1.0], [2.0]]))
    with pytest.raises(ValueError, match="length nan"):
        index.upsert([row(0)], np.full((1, DIMENSION), np.nan))
    with pytest.raises(KeyError, match="1 of 1 rows have no vector"):
        index.upsert([row(0)])
    assert len(index) == 0


def test_a_search_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    index = filled(tmp_path, unit(3))
    with pytest.raises(ConfigError, match="k is 0"):
        index.search(unit(1), 0)
    with pytest.raises(ConfigError, match=r"unknown kind audio; known: text, image, video, pdf"):
        index.search(unit(1), 1, where=row_filter(kinds=["audio"]))
    with pytest.raises(ValueError, match=r"needs \(B, 16\)"):
        index.search(unit(1)[:, :8], 1)
    with pytest.raises(ValueError, match="not finite"):
        index.search(unit(1) * np.nan, 1)


def test_an_empty_index_finds_nothing(tmp_path: Path) -> None:
    assert ExactIndex(tmp_path, **SPACE).search(unit(2), 5) == [[], []]


def test_another_models_index_is_refused_naming_both(tmp_path: Path) -> None:
    filled(tmp_path, unit(3)).commit()
    with pytest.raises(SpaceMismatchError, match=f"the index .*{'a' * 64}.*{'b' * 64}"):
        ExactIndex(tmp_path, fingerprint="b" * 64, dimension=DIMENSION)
    with pytest.raises(SpaceMismatchError, match="16 dimensions"):
        ExactIndex(tmp_path, fingerprint="a" * 64, dimension=8)


def test_a_second_writer_is_refused_while_readers_see_the_committed_state(tmp_path: Path) -> None:
    index = filled(tmp_path, unit(3))
    index.commit()
    with index.writing():
        index.upsert([row(50)], unit(1, seed=9))
        assert len(ExactIndex(tmp_path)) == 3
        with pytest.raises(StoreError, match="another process is writing"), index.writing():
            pass
    index.settings["model"] = "mine"
    with index.writing():
        assert len(index) == 3, "writing starts from what was committed"
        index.commit()
    assert ExactIndex(tmp_path).settings == {"model": "mine"}


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    filled(tmp_path, unit(3)).commit()
    rows = next(tmp_path.glob("rows-*.jsonl"))
    payload = rows.read_bytes()
    rows.write_bytes(payload.replace(b"00001.png", b"00007.png"))
    with pytest.raises(StoreError, match="is damaged"):
        ExactIndex(tmp_path)
    rows.unlink()
    with pytest.raises(StoreError, match="is missing"):
        ExactIndex(tmp_path)
    rows.write_bytes(payload)
    header = tmp_path / "index.json"
    record = json.loads(header.read_bytes())
    header.write_text(json.dumps({**record, "count": 4}))
    with pytest.raises(StoreError, match=r"index\.json is damaged"):
        ExactIndex(tmp_path)


def test_a_folder_without_an_index_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="mmembed index FOLDER"):
        ExactIndex(tmp_path)


def test_committing_an_unchanged_index_writes_nothing(tmp_path: Path) -> None:
    index = filled(tmp_path, unit(3))
    index.commit()
    before = (tmp_path / "index.json").stat().st_mtime_ns
    index.commit()
    assert (tmp_path / "index.json").stat().st_mtime_ns == before
