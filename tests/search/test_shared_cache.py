"""One store for `encode` and for indexing: a vector of either is found by the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed import Embedder
from mmembed.search.corpus import index_folder
from mmembed.search.exact_index import ExactIndex
from tests.encoder.forwards import counted


@pytest.fixture(scope="module")
def embedder(tiny_checkpoint: Path) -> Iterator[Embedder]:
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as loaded:
        yield loaded


@pytest.mark.parametrize("dimension", [64, 16])
def test_what_was_encoded_is_indexed_without_the_model_and_the_other_way_round(
    embedder: Embedder, photos: Path, tmp_path: Path, dimension: int
) -> None:
    index = ExactIndex(tmp_path / "index", fingerprint=embedder.fingerprint, dimension=dimension)
    pictures = sorted(photos.rglob("*.png"))
    short = None if dimension == 64 else dimension
    first = embedder.encode(pictures, truncate_dim=short, cache=index.store)
    with counted(embedder) as forwards:
        summary = index_folder(photos, embedder=embedder, index=index)
    assert (summary.encoded, summary.reused, summary.failures) == (1, 3, [])  # the note is new
    assert len(forwards) == 1
    [passage] = [row.text for row in index.rows() if row.kind == "text"]
    with counted(embedder) as forwards:
        again, report = embedder.encode(
            [*pictures, passage],
            truncate_dim=short,
            cache=tmp_path / "index" / "vectors",
            return_report=True,
        )
    assert (forwards, report.num_cached) == ([], 4)
    assert np.array_equal(again[:3], first)


def test_queries_do_not_take_the_vectors_of_documents(embedder: Embedder, tmp_path: Path) -> None:
    index = ExactIndex(tmp_path, fingerprint=embedder.fingerprint, dimension=64)
    embedder.encode_document(["a cat"], cache=index.store)
    _, report = embedder.encode_query(["a cat"], cache=index.store, return_report=True)
    assert report.num_cached == 0
    assert len(index.store) == 2


def test_files_that_are_there_stay_and_a_copy_is_encoded_again_where_numbers_come_out_otherwise(
    hash_encoder: Any, photos: Path, tmp_path: Path
) -> None:
    index = ExactIndex(tmp_path / "index", fingerprint=hash_encoder.fingerprint, dimension=32)
    before = index_folder(photos, embedder=hash_encoder, index=index)
    hash_encoder.numerics = "another dtype"
    (photos / "copy.png").write_bytes(next(iter(sorted(photos.rglob("*.png")))).read_bytes())
    after = index_folder(photos, embedder=hash_encoder, index=index)
    assert (after.unchanged, after.encoded, after.reused) == (before.files, 1, 0)
