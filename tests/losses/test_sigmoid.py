"""The pairwise sigmoid loss against the matrix of all pairs and its closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from mmembed.losses import sigmoid
from mmembed.losses.embeddings import ContrastiveEmbeddings
from mmembed.losses.sigmoid import Sigmoid
from tests.losses.graded_batch import (
    assert_equal_over_processes,
    assert_unchanged_by_autocast,
    graded_batch,
    leaves,
    value_and_gradients,
)

TAU = torch.linspace(0.05, 0.3, 6, dtype=torch.float64)


def matrix(e: ContrastiveEmbeddings, tau: Tensor, bias: Tensor, *, duplicate_id: bool) -> Tensor:
    """Equation 1 of the paper: log sigmoid of label times logit, for every pair."""
    total = torch.zeros((), dtype=torch.float64)
    for i, own in enumerate(e.positive.tolist()):
        for c in range(len(e.documents)):
            if c != own and duplicate_id and e.ids[c] == e.ids[own]:
                continue
            label = 1 if c == own else -1
            logit = e.queries[i] @ e.documents[c] / tau[i] + bias
            total = total - logsigmoid(label * logit)
    return total / len(e.queries)


@pytest.mark.parametrize("duplicate_id", [True, False])
@pytest.mark.parametrize("tile_columns", [1, 4, 1000])
def test_tiles_of_any_width_equal_the_matrix_in_value_and_gradients(
    duplicate_id: bool, tile_columns: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sigmoid, "_TILE_COLUMNS", tile_columns)
    loss = Sigmoid(bias_init=-1.5, duplicate_id=duplicate_id).double()
    e, tau = leaves(graded_batch()), TAU.clone().requires_grad_()
    bias = torch.tensor(-1.5, dtype=torch.float64, requires_grad=True)
    expected = matrix(e, tau, bias, duplicate_id=duplicate_id)
    expected.backward()
    slow = expected.detach(), e.queries.grad, e.documents.grad, tau.grad, bias.grad
    for found, wanted in zip(value_and_gradients(loss, e, TAU), slow, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_orthogonal_embeddings_give_one_positive_and_all_other_documents_as_negatives():
    rows, count, bias = 3, 7, -2.0
    e = ContrastiveEmbeddings.of_one_process(
        torch.zeros(rows, 2),
        torch.zeros(count, 2),
        torch.arange(rows),
        torch.arange(count) % rows,
        torch.arange(count),
    )
    output = Sigmoid(bias_init=bias)(e, torch.tensor(0.1))
    positive, negative = math.log1p(math.exp(-bias)), (count - 1) * math.log1p(math.exp(bias))
    assert output.loss.item() == pytest.approx(positive + negative)
    assert output.metrics["positive_loss"].item() == pytest.approx(positive)
    assert output.metrics["negative_loss"].item() == pytest.approx(negative)
    assert output.metrics["bias"] == bias


def test_documents_with_the_positives_id_are_no_negatives():
    e = graded_batch()
    alike = replace(e, ids=torch.zeros_like(e.ids))
    output = Sigmoid()(alike, TAU)
    assert output.metrics["negative_loss"] == 0
    own = (e.queries * e.documents[e.positive]).sum(-1)
    torch.testing.assert_close(output.loss, softplus(10 - own / TAU).mean())
    torch.testing.assert_close(output.metrics["positive_similarity"], own.mean())


def test_the_bias_starts_at_minus_ten_in_float32_and_learns():
    loss = Sigmoid()
    assert [(name, p.item(), p.dtype) for name, p in loss.named_parameters()] == [
        ("bias", -10.0, torch.float32)
    ]
    loss(graded_batch(), TAU).loss.backward()
    assert loss.bias.grad.abs() > 0.1


def test_no_matrix_of_rows_by_documents_is_kept_for_the_backward_pass():
    rows = 512
    e = ContrastiveEmbeddings.of_one_process(
        torch.randn(rows, 4, requires_grad=True),
        torch.randn(8 * rows, 4, requires_grad=True),
        torch.arange(rows),
        torch.arange(8 * rows) % rows,
        torch.arange(8 * rows),
    )
    kept: dict[int, int] = {}  # storages, so that a view is counted once

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        Sigmoid()(e, torch.tensor(0.1))
    assert sum(kept.values()) < rows * 8 * rows * 4 / 16


def test_processes_together_give_the_value_and_gradients_of_one():
    assert_equal_over_processes(Sigmoid(bias_init=-1.0).double(), graded_batch(), TAU)


def test_autocast_does_not_change_the_value():
    assert_unchanged_by_autocast(Sigmoid(), graded_batch(), TAU)
