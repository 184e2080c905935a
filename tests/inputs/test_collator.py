"""A packed row cut into chunks is what packing the items of each chunk gives."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmembed.inputs.collator import EncoderInputs, chunk_cost, pack, split
from mmembed.inputs.items import PreparedItem

# (tokens, patch rows of each picture) of each item
ITEMS = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(1, 3), max_size=3)), min_size=1, max_size=7
)
MANY = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def prepared(number: int, tokens: int, pictures: list[int]) -> PreparedItem:
    random = np.random.default_rng(number)
    return PreparedItem(
        input_ids=random.integers(0, 99, tokens),
        position_ids=random.integers(0, 99, (3, tokens)),
        patches=random.integers(0, 256, (4 * sum(pictures), 5), np.uint8) if pictures else None,
        grid_thw=np.array([[height, 2, 2] for height in pictures]) if pictures else None,
    )


def assert_same(found: EncoderInputs, expected: EncoderInputs) -> None:
    for name, value in expected.items():
        if value is None or isinstance(value, tuple):
            assert found[name] == value, name
        else:
            assert found[name].dtype == value.dtype, name
            assert torch.equal(found[name], value), name


@MANY
@given(ITEMS, st.integers(1, 60))
def test_chunks_are_consecutive_items_packed_under_the_budget(sizes, chunk_tokens):
    items = [prepared(number, *size) for number, size in enumerate(sizes)]
    chunks = split(pack(items, picture_keys=True), chunk_tokens)
    ends = np.cumsum([0, *(len(chunk["cu_seqlens"]) - 1 for chunk in chunks)])
    assert ends[-1] == len(items)
    for chunk, (begin, end) in zip(chunks, pairwise(ends), strict=True):
        assert_same(chunk, pack(items[begin:end], picture_keys=True))
        cost = sum(item.cost for item in items[begin:end])
        assert chunk_cost(chunk) == cost
        assert cost <= chunk_tokens or end - begin == 1
        if end < len(items):  # greedy: the next item would not have fitted
            assert cost + items[end].cost > chunk_tokens


@MANY
@given(ITEMS, st.integers(1, 60), st.integers(1, 60))
def test_chunks_can_be_cut_again(sizes, first, second):
    whole = pack([prepared(number, *size) for number, size in enumerate(sizes)])
    twice = [part for chunk in split(whole, first) for part in split(chunk, second)]
    assert all(chunk_cost(part) <= second or len(part["cu_seqlens"]) == 2 for part in twice)
    ids = torch.cat([part["input_ids"] for part in twice])
    assert torch.equal(ids, whole["input_ids"])


@pytest.mark.parametrize("chunk_tokens", [None, 12])
def test_what_fits_is_handed_on_as_it_is(chunk_tokens):
    whole = pack([prepared(0, 3, [1]), prepared(1, 5, [])])
    assert split(whole, chunk_tokens)[0] is whole


def test_chunks_are_views():
    whole = pack([prepared(number, 3, [1]) for number in range(4)])
    for name in ("input_ids", "position_ids", "pixel_values"):
        storage = whole[name].untyped_storage().data_ptr()
        chunks = split(whole, 14)
        assert len(chunks) == 2
        assert all(chunk[name].untyped_storage().data_ptr() == storage for chunk in chunks)
