"""Linear layers through oneDNN give the vectors of plain ones; gradients never go through it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mmembed.encoder import linear as module
from mmembed.encoder.embedder import Embedder
from mmembed.encoder.linear import use_faster_linears


@pytest.fixture
def chosen(monkeypatch):
    """Calls of the operation, on a machine where it is faster."""
    calls = []
    operation = module._by_onednn

    def note(*arguments):
        calls.append(arguments[0].shape)
        return operation(*arguments)

    monkeypatch.setattr(module, "_is_faster", lambda: True)
    monkeypatch.setattr(module, "_by_onednn", note)
    return calls


def test_vectors_are_those_of_plain_layers(tiny_checkpoint, chosen, monkeypatch):
    items = ["a cat", "a dog under a tree", {"image": np.zeros((60, 90, 3), np.uint8)}]
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as embedder:
        ours = embedder.encode(items)
    assert chosen
    monkeypatch.setattr(module, "_is_faster", lambda: False)
    with Embedder.from_pretrained(tiny_checkpoint, num_workers=1) as embedder:
        chosen.clear()
        assert np.abs(ours - embedder.encode(items)).max() <= 1e-6
    assert not chosen


def test_gradients_and_autocast_stay_with_pytorch(chosen):
    layer = nn.Linear(4, 3)
    assert use_faster_linears(layer)
    rows = torch.randn(2, 4)
    layer(rows).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(rows).dtype == torch.bfloat16
        assert not chosen
        expected = rows @ layer.weight.T + layer.bias
        assert torch.allclose(layer(rows), expected, atol=1e-6)
        assert chosen == [rows.shape]
        assert layer(rows.bfloat16().float()).shape == (2, 3)


def test_other_dtypes_and_machines_without_a_gain_are_left_alone(chosen, monkeypatch):
    assert not use_faster_linears(nn.Linear(4, 3).bfloat16())
    assert not use_faster_linears(nn.Linear(4, 3, device="meta"))
    monkeypatch.setattr(module, "_is_faster", lambda: False)
    layer = nn.Linear(4, 3)
    assert not use_faster_linears(layer)
    assert "forward" not in vars(layer)


def test_a_build_without_the_operation_has_no_gain(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    module._is_faster.cache_clear()
    try:
        assert not module._is_faster()
    finally:
        module._is_faster.cache_clear()
