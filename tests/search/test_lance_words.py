"""Search of words in Lance: rows that its full-text index has, and those that came later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmembed.search.filters import row_filter
from mmembed.search.lance_index import LanceIndex
from tests.search.engines import DIMENSION, FINGERPRINT, row, unit

pytest.importorskip("lancedb")

SPACE = {"fingerprint": FINGERPRINT, "dimension": DIMENSION}


def test_words_are_found_before_and_after_they_are_indexed(tmp_path: Path) -> None:
    index = LanceIndex(tmp_path, **SPACE)
    texts = [
        "red fox",
        "red red fox",
        "blue whale",
        "Caf\u00e9 \u6771\u4eac\u90fd",
        "red fox",
        None,
    ]
    index.upsert([row(n, text=text) for n, text in enumerate(texts)], unit(len(texts)))
    index.commit()
    for _ in range(2):
        foxes = index.search_text("Red, FOX?", 10)
        assert {match.row.text for match in foxes} == {"red fox", "red red fox"}
        assert foxes == sorted(foxes, key=lambda match: -match.score)
        equal = [match.row.id for match in foxes if match.row.text == "red fox"]
        assert equal == sorted(equal) and len(equal) == 2
        for words in ("cafe", "\u6771\u4eac"):
            assert [match.row.text for match in index.search_text(words, 1)] == [texts[3]]
        assert [match.row.id for match in index.search_text("0005", 3)] == [row(5).id]
        assert index.search_text("fox", 10, where=row_filter(kinds=["video"])) == []
        assert index.search_text("?!", 10) == index.search_text("elephant", 10) == []
        index.optimize()
    index.upsert([row(50, text="red squirrel"), row(0, text="black cat")], unit(2, seed=3))
    index.commit()
    assert [match.row.text for match in index.search_text("squirrel", 5)] == ["red squirrel"]
    assert [match.row.text for match in index.search_text("cat", 5)] == ["black cat"]
    assert row(0).id not in {match.row.id for match in index.search_text("fox", 5)}


def test_equal_scores_of_words_are_cut_by_id(tmp_path: Path) -> None:
    index = LanceIndex(tmp_path, **SPACE)
    order = np.random.default_rng(0).permutation(200)
    index.upsert([row(int(n), text="same words") for n in order], unit(200))
    index.commit()
    expected = sorted(row(n).id for n in range(200))
    assert [match.row.id for match in index.search_text("same", 7)] == expected[:7]
