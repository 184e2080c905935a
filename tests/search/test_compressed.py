"""Codes in memory find what full vectors find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmembed.errors import ConfigError
from mmembed.search.compressed import CoarseCodes, parse_coarse
from mmembed.search.exact_index import ExactIndex
from mmembed.search.filters import row_filter
from mmembed.search.recall import recall_at_10
from mmembed.search.rows import KINDS, Row

DIMENSION, COUNT = 128, 3000


def clustered(count: int, seed: int) -> np.ndarray:
    """Unit vectors around 60 centres whose first dimensions matter most, as after MRL training."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, DIMENSION + 1) ** -0.5
    centres = np.random.default_rng(0).normal(size=(60, DIMENSION)) * scale
    vectors = centres[rng.integers(60, size=count)] + 0.4 * scale * rng.normal(
        size=(count, DIMENSION)
    )
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coarse")
    index = ExactIndex(folder, fingerprint="a" * 64, dimension=DIMENSION)
    vectors = clustered(COUNT, seed=1)
    names = [f"/{n:05d}" for n in np.random.default_rng(2).permutation(COUNT)]
    rows = [Row(name, name, KINDS[n % 4], f"{n:064x}") for n, name in enumerate(names)]
    for start in range(0, COUNT, 700):
        index.upsert(rows[start : start + 700], vectors[start : start + 700])
    index.commit()
    return folder


@pytest.mark.parametrize("coarse", ["int8", "64:int8", "binary", "64:binary:40"])
def test_recall_is_nearly_that_of_exact_search(folder: Path, coarse: str) -> None:
    index = ExactIndex(folder)
    assert recall_at_10(index) == 1.0
    index.settings["coarse"] = coarse
    assert recall_at_10(index) >= 0.98
    assert index.stats().method == coarse
    for query in clustered(5, seed=3):
        true = {match.row.id: match.score for match in index.search(query, 10, exact=True)[0]}
        for match in index.search(query, 10)[0]:
            assert true.get(match.row.id, match.score) == match.score, "scores are full ones"


def test_so_few_candidates_that_recall_is_lost_are_noticed(folder: Path) -> None:
    index = ExactIndex(folder)
    index.settings["coarse"] = "16:binary:1"
    assert recall_at_10(index) < 0.5


def test_all_rows_as_candidates_are_exact_search(folder: Path) -> None:
    index = ExactIndex(folder)
    queries = clustered(4, seed=4)
    where = row_filter(kinds=["pdf"])
    exact = [index.search(queries, 7), index.search(queries, 7, where=where)]
    index.settings["coarse"] = f"8:binary:{COUNT}"
    assert [index.search(queries, 7), index.search(queries, 7, where=where)] == exact
    index.settings["coarse"] = "int8:40"
    assert index.search(queries, 7, where=where) == exact[1]


@pytest.mark.parametrize(("coarse", "num_bytes"), [("int8", 128), ("64:int8", 64), ("binary", 16)])
def test_codes_are_small(coarse: str, num_bytes: int) -> None:
    vectors = clustered(10, seed=5)
    blocks = [(np.arange(5, 10), vectors[5:]), (np.arange(5), vectors[:5])]
    codes = CoarseCodes(parse_coarse(coarse, DIMENSION), 10, blocks)
    assert codes.nbytes == 10 * num_bytes


def test_binary_scores_are_sums_over_signs() -> None:
    vectors, query = clustered(50, seed=6), clustered(1, seed=7)[0]
    codes = CoarseCodes(parse_coarse("binary:1", DIMENSION), 50, [(np.arange(50), vectors)])
    by_hand = np.where(vectors > 0, 1.0, -1.0) @ query
    assert set(codes.candidates(query, 5)) == set(np.argsort(-by_hand)[:5])


def test_prefixes_are_compared_by_direction_whatever_their_length() -> None:
    near, far = np.zeros(8), np.zeros(8)
    near[[0, 7]] = 0.1, np.sqrt(0.99)
    far[[0, 1, 7]] = 0.5, 0.5, np.sqrt(0.5)
    vectors = np.array([far, near], dtype=np.float32)
    codes = CoarseCodes(parse_coarse("4:int8:1", 8), 2, [(np.arange(2), vectors)])
    assert codes.candidates(np.eye(8, dtype=np.float32)[0], 1).tolist() == [1]


def test_optimising_takes_more_candidates_or_gives_codes_up(folder: Path, tmp_path: Path) -> None:
    index = ExactIndex(tmp_path, fingerprint="a" * 64, dimension=DIMENSION)
    rows = [Row(f"/{n}", f"/{n}", "image", f"{n:064x}") for n in range(COUNT)]
    index.upsert(rows, clustered(COUNT, seed=1))
    index.settings["coarse"] = "64:int8:1"
    report = index.optimize()
    assert report.recall is not None and report.recall >= 0.99
    kept = ExactIndex(tmp_path).settings["coarse"]
    assert kept.startswith("64:int8:") and kept == report.method != "64:int8:1"
    index.settings["coarse"] = "1:binary:1"
    report = index.optimize()
    assert report.method == "exact" and "1:binary:1 reaches" in report.reason
    assert "coarse" not in ExactIndex(tmp_path).settings
    assert index.optimize().recall is None


@pytest.mark.parametrize(
    "text", ["", "int4", "0:int8", "129:int8", "int8:0", "int8:x", "64:", "64:int8:4:4", "-1:int8"]
)
def test_codes_that_make_no_sense_are_refused(folder: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"write \[DIMENSIONS:\]int8"):
        parse_coarse(text, DIMENSION)
    index = ExactIndex(folder)
    index.settings["coarse"] = text
    with pytest.raises(ConfigError, match="coarse is"):
        index.search(clustered(1, seed=0), 1)
