"""A frozen tower sees each picture once, and nothing that comes out of the model changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmembed.encoder.backbone import Backbone
from mmembed.encoder.checkpoint import load_encoder
from mmembed.encoder.tower_cache import TowerCache
from mmembed.errors import ConfigError
from mmembed.inputs.collator import pack, split
from mmembed.inputs.items import PreparedItem
from mmembed.types import MultimodalInput
from tests.conftest import TINY_TEXTS
from tests.encoder.architectures import VISION, build
from tests.encoder.plain_forward import picture

ONE, TWO, THREE = picture(1), picture(2, 90, 50), picture(3, 40, 200)
ITEMS = [
    "only text",
    ONE,
    {"image": [ONE, TWO], "text": "two"},
    {"video": [ONE, TWO, THREE]},
    {"image": ONE, "text": "again"},
    THREE,
]
CPU = torch.device("cpu")
TOKEN_BYTES = 4 * 3 * 2  # of `Tower`: float32, width 3, two levels


class Tower:
    """Two levels of features that say which picture they are of; counts the patch rows it saw."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, pixels: Tensor, grids: Tensor) -> Tensor:
        assert len(pixels) == grids.prod(1).sum()
        self.rows += len(pixels)
        merged = pixels.float().reshape(-1, 4, 3).mean(1)
        return torch.stack([merged, -merged])


def shown(pictures: Sequence[int]) -> tuple[list[bytes], Tensor, Tensor]:
    """Keys, patch rows and grids; picture n has 1 + n % 3 tokens of 4 patch rows each."""
    heights = [1 + number % 3 for number in pictures]
    rows = [
        torch.full((4 * h, 3), n, dtype=torch.uint8) for n, h in zip(pictures, heights, strict=True)
    ]
    grids = torch.tensor([[h, 2, 2] for h in heights])
    return [bytes([number]) for number in pictures], torch.cat(rows), grids


def asked(cache: TowerCache, tower: Tower, pictures: Sequence[int]) -> Tensor:
    return cache.of_pictures(*shown(pictures), tower, CPU)


@settings(max_examples=100, deadline=None, database=None)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), max_size=8),
    st.integers(0, 12 * TOKEN_BYTES),
)
def test_features_are_the_towers_and_memory_is_bounded_whatever_is_asked(batches, capacity):
    cache = TowerCache(capacity)
    for pictures in batches:
        tower = Tower()
        found = asked(cache, tower, pictures)
        assert torch.equal(found, Tower()(*shown(pictures)[1:]))
        assert cache.num_bytes <= capacity
        assert tower.rows <= 4 * sum(1 + number % 3 for number in set(pictures))


def test_each_picture_is_computed_once_while_there_is_room():
    cache, tower = TowerCache(100 * TOKEN_BYTES), Tower()
    asked(cache, tower, [0, 1, 2, 1, 0])
    assert tower.rows == 4 * (1 + 2 + 3)
    assert cache.num_bytes == (1 + 2 + 3) * TOKEN_BYTES
    asked(cache, tower, [2, 0])
    asked(cache, tower, [1, 4, 1])
    assert tower.rows == 4 * (1 + 2 + 3 + 2)


def test_what_has_no_key_is_computed_and_not_kept():
    cache, tower = TowerCache(100 * TOKEN_BYTES), Tower()
    keys, pixels, grids = shown([1, 2, 1, 1])
    found = cache.of_pictures([keys[0], None, None, keys[3]], pixels, grids, tower, CPU)
    assert torch.equal(found, Tower()(pixels, grids))
    assert tower.rows == 4 * (2 + 3 + 2)
    assert cache.num_bytes == 2 * TOKEN_BYTES


def test_what_is_kept_holds_no_more_memory_than_it_says():
    cache = TowerCache(4 * TOKEN_BYTES)
    asked(cache, Tower(), [0, 3, 6, 9, 12, 15])
    kept = [*cache._first.values(), *cache._latest.values()]
    assert sum(part.untyped_storage().nbytes() for part in kept) == cache.num_bytes
    assert cache.num_bytes == 4 * TOKEN_BYTES


def test_shuffled_epochs_find_the_share_that_there_is_room_for():
    random = np.random.default_rng(0)
    pictures = [3 * number for number in range(80)]  # one token each
    cache, tower = TowerCache(40 * TOKEN_BYTES), Tower()
    for _ in range(4):
        before = tower.rows
        for number in random.permutation(pictures):
            asked(cache, tower, [int(number)])
    found = 1 - (tower.rows - before) / 4 / len(pictures)
    assert found > 0.75 * 0.5  # least recently used: 0.5 + 0.5 ln 0.5 = 0.15


def test_a_second_pass_over_the_latest_pictures_finds_them_in_a_full_cache():
    cache, tower = TowerCache(20 * TOKEN_BYTES), Tower()
    for number in range(0, 150, 3):
        asked(cache, tower, [number])
    before = tower.rows
    asked(cache, tower, [147, 144, 141, 138, 135])
    asked(cache, tower, [0, 3, 42])  # and the first ones
    assert tower.rows == before


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("architectures")
    budget = {name: {"min": 4, "max": 16} for name in ("image_tokens", "frame_tokens")}
    loaded: dict[str, Any] = {}

    def get(architecture: str) -> tuple[Backbone, list[PreparedItem]]:
        if architecture not in loaded:
            folder = build(root / architecture, architecture, TINY_TEXTS * 4)
            encoder, processor = load_encoder(folder, inputs=budget)
            items = [processor.prepare(MultimodalInput.of(item)) for item in ITEMS]
            processor.close()
            loaded[architecture] = encoder.backbone, items
        backbone, items = loaded[architecture]
        if backbone.tower is not None:
            backbone.tower.requires_grad_(False)
        backbone._features = None
        return backbone, items

    return get


@contextmanager
def tower_rows(backbone: Backbone) -> Iterator[list[int]]:
    """How many patch rows each run of the tower saw."""
    rows: list[int] = []
    handle = backbone.tower.register_forward_pre_hook(
        lambda _, arguments: rows.append(len(arguments[0]))
    )
    try:
        yield rows
    finally:
        handle.remove()


@pytest.mark.parametrize("architecture", VISION)
def test_states_and_gradients_are_those_without_a_cache(models, architecture):
    backbone, items = models(architecture)

    def found(inputs) -> list[Tensor]:
        backbone.zero_grad()
        states = backbone.hidden_states(inputs)
        states.square().sum().backward()
        return [states.detach(), *(p.grad for p in backbone.parameters() if p.grad is not None)]

    def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
        pairs = zip(ours, theirs, strict=True)
        return max(float((a - b).norm() / b.norm().clamp_min(1e-9)) for a, b in pairs)

    plain = found(pack(items))
    inputs = pack(items, picture_keys=True)
    backbone.keep_features(2**20)
    with tower_rows(backbone) as rows:
        first = found(inputs)
        second = found(inputs)
        parts = [found(part)[0] for part in split(inputs, 1)]
    assert len(rows) == 1
    distinct = dict(zip(inputs["picture_keys"], inputs["grid_thw"].prod(1).tolist(), strict=True))
    assert rows[0] == sum(distinct.values()) < len(inputs["pixel_values"])
    assert difference(second, first) == 0
    assert difference(first, plain) <= 1e-6
    assert difference([torch.cat(parts)], plain[:1]) <= 2e-6


@pytest.mark.parametrize("architecture", VISION)
def test_repeated_pictures_are_seen_once_while_a_call_lasts(models, architecture):
    backbone, items = models(architecture)
    backbone.tower.requires_grad_(True)
    ids = iter("abcdefghijklmnopqrstuvwxyz")
    named = [
        item
        if item.grid_thw is None
        else dataclasses.replace(item, picture_ids=tuple(next(ids) for _ in item.grid_thw))
        for item in items
    ]
    with torch.inference_mode(), tower_rows(backbone) as rows:
        plain = backbone.hidden_states(pack(named))
        with backbone.keeping_features(2**20):
            first = backbone.hidden_states(pack(named, repeated={"a", "c"}))
            second = backbone.hidden_states(pack(named, repeated={"a", "c"}))
        again = backbone.hidden_states(pack(named, repeated={"a", "c"}))
    sizes = pack(named)["grid_thw"].prod(1).tolist()
    assert rows == [sum(sizes), sum(sizes), sum(sizes) - sizes[0] - sizes[2], sum(sizes)]
    for states in (first, second, again):
        assert (states - plain).norm() / plain.norm() <= 2e-6


def test_what_a_call_keeps_does_not_fill_the_cache_of_a_training_run(models):
    backbone, items = models("qwen2_vl")
    named = [dataclasses.replace(items[1], picture_ids=("a",)), items[0]]
    backbone.keep_features(2**20)
    kept = backbone._features
    with torch.inference_mode(), backbone.keeping_features(2**20):
        backbone.hidden_states(pack(named, repeated={"a"}))
    assert backbone._features is kept and kept.num_bytes == 0


def test_inputs_without_keys_pass_the_cache_by(models):
    backbone, items = models("qwen2_vl")
    backbone.keep_features(2**20)
    with tower_rows(backbone) as rows:
        for _ in range(2):
            backbone.hidden_states(pack(items))
    assert rows == [len(pack(items)["pixel_values"])] * 2


def test_a_frozen_tower_keeps_no_graph_and_is_not_run_again(models):
    backbone, items = models("qwen2_vl")
    backbone.recompute_activations()
    backbone.train()
    runs: list[bool] = []
    handle = backbone.tower.blocks[0].mlp.register_forward_hook(
        lambda _, __, output: runs.append(output.requires_grad)
    )
    backbone.hidden_states(pack(items)).sum().backward()
    handle.remove()
    backbone.eval()
    assert runs == [False]


def test_keys_say_content_and_grid(models):
    _, items = models("qwen2_vl")
    (image,) = pack([items[1]], picture_keys=True)["picture_keys"]
    keys = pack(items, picture_keys=True)["picture_keys"]
    assert keys[0] == keys[1] == image
    grids = pack(items)["grid_thw"]
    assert len(keys) == len(grids)
    turned = dataclasses.replace(items[1], grid_thw=items[1].grid_thw[:, [0, 2, 1]])
    assert turned.grid_thw.tolist() != items[1].grid_thw.tolist()
    changed = dataclasses.replace(items[1], patches=items[1].patches.copy())
    changed.patches[-1, -1] ^= 1
    others = [pack([item], picture_keys=True)["picture_keys"][0] for item in (turned, changed)]
    assert len({image, *others}) == 3
    assert pack(items)["picture_keys"] is None
    assert pack(items[:1], picture_keys=True)["picture_keys"] is None


def test_only_a_tower_that_is_frozen_as_a_whole_is_kept(models, tmp_path):
    backbone, _ = models("qwen2_vl")
    backbone.tower.merger.requires_grad_(True)
    with pytest.raises(ConfigError, match=r"merger\.\S+ for one; set freeze: \[visual\]"):
        backbone.keep_features(1)
    text, _ = load_encoder(build(tmp_path / "text", "qwen3", TINY_TEXTS * 4))
    with pytest.raises(ConfigError, match="no vision tower"):
        text.backbone.keep_features(1)
