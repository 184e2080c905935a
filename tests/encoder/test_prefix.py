"""A shared beginning against rows without one: the same vectors and gradients, fewer tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from mmembed.encoder.checkpoint import load_encoder
from mmembed.encoder.encoder import EncoderConfig
from mmembed.encoder.prefix import share_prefix
from mmembed.inputs.collator import pack
from mmembed.inputs.items import PreparedItem
from mmembed.types import MultimodalInput


def prepared(*rows):
    return [
        PreparedItem(np.array(row), np.broadcast_to(np.arange(len(row)), (3, len(row))))
        for row in rows
    ]


HEAD = list(range(10, 22))


def test_the_common_beginning_stands_once_in_front():
    packed = pack(prepared([*HEAD, 1, 2], [*HEAD, 3], [*HEAD, 1, 4, 5]))
    shared = share_prefix(packed)
    assert shared["input_ids"].tolist() == [*HEAD, 1, 2, 3, 1, 4, 5]
    assert shared["cu_seqlens"].tolist() == [12, 14, 15, 18]
    assert shared["position_ids"][0].tolist() == [*range(12), 12, 13, 12, 12, 13, 14]


def test_every_item_keeps_a_token_of_its_own():
    shared = share_prefix(pack(prepared(HEAD, [*HEAD, 1, 2], HEAD)))
    assert shared["cu_seqlens"].tolist() == [11, 12, 15, 16]


@pytest.mark.parametrize(
    "rows",
    [
        [HEAD],
        [[1, *HEAD], [2, *HEAD]],
        [[9, *range(30, 100)], [9, *range(130, 200)]],
        [[5], [*HEAD, 5]],
    ],
    ids=["one item", "nothing in common", "too little in common", "an item of one token"],
)
def test_rows_are_left_alone_where_sharing_does_not_pay(rows):
    packed = pack(prepared(*rows))
    assert share_prefix(packed) is packed


def test_sharing_ends_where_a_picture_begins():
    picture = 77
    packed = pack(prepared([*HEAD, picture, picture, 1, 2], [*HEAD, picture, picture, 1, 3]))
    assert int(share_prefix(packed)["cu_seqlens"][0]) == 15
    assert int(share_prefix(packed, visual_ids=[picture])["cu_seqlens"][0]) == 12


def test_sharing_ends_where_positions_differ():
    first, second = prepared([*HEAD, 1, 2], [*HEAD, 1, 3])
    second.position_ids = second.position_ids.copy()
    second.position_ids[1, 8:] += 4
    assert int(share_prefix(pack([first, second]))["cu_seqlens"][0]) == 8


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)
    return PILImage.fromarray(pixels)


def items():
    return [
        MultimodalInput.of(item)
        for item in (
            "a cat",
            "a cat and a dog that sleep under the old tree behind the house",
            {"image": picture(0), "text": "a cat"},
            {"image": picture(1), "text": "a cat"},
            "a",
        )
    ]


def backbone_rows(monkeypatch):
    """How many tokens reach the language model, call by call."""
    seen = []

    def note(inputs, **options):
        found = share_prefix(inputs, **options)
        seen.append((len(inputs["input_ids"]), len(found["input_ids"])))
        return found

    monkeypatch.setattr("mmembed.encoder.backbone.share_prefix", note)
    return seen


def test_vectors_and_gradients_do_not_change(tiny_checkpoint, monkeypatch):
    seen = backbone_rows(monkeypatch)
    encoder, processor = load_encoder(tiny_checkpoint)
    with processor.decoder:
        inputs = pack(processor.prepare_all(items()))
    weights = torch.randn(
        5, encoder.embedding_dimension, generator=torch.Generator().manual_seed(0)
    )

    def run():
        encoder.zero_grad()
        vectors = encoder(inputs)
        (vectors * weights).sum().backward()
        gradients = {
            name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None
        }
        return vectors.detach(), gradients

    ours, our_gradients = run()
    assert seen[0][1] < 0.8 * seen[0][0]
    monkeypatch.setattr("mmembed.encoder.backbone.share_prefix", lambda inputs, **_: inputs)
    theirs, their_gradients = run()
    assert (ours - theirs).abs().max() <= 1e-6
    for name, gradient in our_gradients.items():
        scale = their_gradients[name].abs().max().clamp(min=1e-6)
        assert (gradient - their_gradients[name]).abs().max() / scale <= 1e-4, name


def test_nothing_is_shared_where_tokens_see_what_follows(tiny_checkpoint, monkeypatch):
    seen = backbone_rows(monkeypatch)
    encoder, processor = load_encoder(
        tiny_checkpoint, encoder={"attention": "bidirectional", "pooling": "last_token"}
    )
    assert encoder.config == EncoderConfig(attention="bidirectional")
    with processor.decoder:
        encoder(pack(processor.prepare_all(items()[:2])))
    assert not seen
