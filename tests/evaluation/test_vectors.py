"""The encode layer: rows by content, refused when they are none (EV-11, EV-35)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.baselines.stored_vectors import StoredVectors, open_space
from mmembed.errors import DataError, StoreError
from mmembed.evaluation.example_tasks import HashingEncoder
from mmembed.evaluation.vectors import verify_store
from mmembed.types import Image, MultimodalInput, Role
from tests.evaluation.fixture_suite import load_encoder, text, write_data

ITEMS = [text(word) for word in ("a", "b", "c", "a")]


class Scaled(HashingEncoder):
    """Rows of another length than 1."""

    def __init__(self, factor: float, dtype: Any = np.float32) -> None:
        super().__init__("scaled")
        self.factor, self.dtype = factor, dtype

    def encode(
        self,
        items: Sequence[MultimodalInput],
        *,
        role: Role,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        return (super().encode(items, role=role) * self.factor).astype(self.dtype)


@pytest.mark.parametrize("in_memory", [True, False])
def test_rows_are_those_of_the_encoder_in_the_order_of_the_items(
    tmp_path: Path, in_memory: bool
) -> None:
    encoder = HashingEncoder()
    vectors = StoredVectors(encoder, None if in_memory else tmp_path)
    rows = vectors.rows(ITEMS, "query")
    assert np.array_equal(rows, encoder.encode(ITEMS, role="query"))
    assert (vectors.num_encoded, vectors.num_found) == (3, 0)
    assert np.array_equal(vectors.rows(ITEMS[::-1], "query"), rows[::-1])
    assert vectors.num_encoded == 3
    vectors.ensure(ITEMS, "document")
    assert vectors.num_encoded == 6


def test_a_second_process_finds_what_the_first_one_encoded(tmp_path: Path) -> None:
    first = StoredVectors(HashingEncoder(), tmp_path)
    rows = first.rows(ITEMS, "query")
    second = StoredVectors(HashingEncoder(), tmp_path)
    assert np.array_equal(second.rows(ITEMS, "query"), rows)
    assert (second.num_encoded, second.num_found) == (0, 3)


def test_what_another_process_commits_meanwhile_is_found(tmp_path: Path) -> None:
    first, second = (StoredVectors(HashingEncoder(), tmp_path) for _ in range(2))
    first.ensure(ITEMS, "query")
    second.ensure(ITEMS, "query")
    assert (second.num_encoded, second.num_found) == (0, 3)


def test_models_share_a_folder_and_no_rows(tmp_path: Path) -> None:
    """Another dtype or kernel is another space, as another model is."""
    for name in ("a float32", "a bfloat16"):
        vectors = StoredVectors(HashingEncoder(name), tmp_path)
        vectors.ensure(ITEMS, "query")
        assert vectors.num_encoded == 3
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(StoreError, match=r"store\.json is missing"):
        open_space(tmp_path, "f" * 64)


def test_nan_names_its_item_and_nothing_of_the_shard_is_kept(tmp_path: Path) -> None:
    vectors = StoredVectors(load_encoder("nan"), tmp_path)
    with pytest.raises(DataError, match=r"(?s)1 of 3 vectors.*item 1: it is not finite"):
        vectors.ensure(ITEMS, "query")
    assert verify_store(tmp_path) == (0, [])


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (Scaled(0.0), "its length is 0"),
        (Scaled(1.01), r"its length is 1\.01"),
        (Scaled(1.0, np.float64), "gave float64"),
    ],
)
def test_rows_that_are_no_float32_unit_vectors_are_refused(encoder: Scaled, message: str) -> None:
    with pytest.raises(DataError, match=message):
        StoredVectors(encoder).ensure(ITEMS, "query")


def test_rounding_to_half_precision_is_no_reason_to_refuse() -> None:
    StoredVectors(Scaled(1.0009)).ensure(ITEMS, "query")


def test_an_item_that_the_model_refuses_is_named_with_its_file() -> None:
    with pytest.raises(DataError, match=r"item 2 \(p3\.png\): corrupt: it is torn"):
        StoredVectors(load_encoder("picky")).ensure(ITEMS, "query")


def test_a_file_that_changes_while_it_is_encoded_gets_no_row(tmp_path: Path) -> None:
    path = write_data(tmp_path / "data") / "pictures" / "p0.png"

    class Swaps(HashingEncoder):
        def encode(self, items: Any, **options: Any) -> np.ndarray:
            rows = super().encode(items, **options)
            path.write_bytes((path.parent / "p1.png").read_bytes())
            return rows

    vectors = StoredVectors(Swaps(), tmp_path / "store")
    with pytest.raises(DataError, match="has changed since"):
        vectors.ensure([MultimodalInput((Image(path),))], "query")
    assert verify_store(tmp_path / "store") == (0, [])


def test_verify_counts_rows_and_finds_those_that_are_no_unit_vectors(tmp_path: Path) -> None:
    vectors = StoredVectors(HashingEncoder(), tmp_path)
    vectors.ensure(ITEMS, "query")
    assert verify_store(tmp_path) == (3, [])
    store = vectors.store
    assert store is not None
    long = np.full((1, 64), 2.0, np.float32)
    store.add(["f" * 64], long)
    count, problems = verify_store(tmp_path)
    assert count == 4
    assert len(problems) == 1 and "row 0: its length is 16" in problems[0]


def test_verify_finds_a_flipped_byte_and_an_empty_folder(tmp_path: Path) -> None:
    vectors = StoredVectors(HashingEncoder(), tmp_path / "store")
    vectors.ensure(ITEMS, "query")
    shard = next((tmp_path / "store").glob("*/shards/*.npy"))
    payload = bytearray(shard.read_bytes())
    payload[-1] ^= 1
    shard.write_bytes(bytes(payload))
    os.utime(shard)
    count, problems = verify_store(tmp_path / "store")
    assert count == 0 and "sha256 differs" in problems[0]
    with pytest.raises(StoreError, match="holds no stored vectors"):
        verify_store(tmp_path)
