"""Matryoshka around real objectives: golden numbers, the plain loss as a special case."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from mmembed.losses.cosent import CoSENT
from mmembed.losses.distillation import Distillation
from mmembed.losses.embeddings import ContrastiveEmbeddings, LossOutput
from mmembed.losses.info_nce import InfoNCE
from mmembed.losses.masks import DocumentSimilarityMask
from mmembed.losses.matryoshka import Matryoshka
from mmembed.losses.sigmoid import Sigmoid
from tests.losses.graded_batch import (
    assert_equal_over_processes,
    assert_unchanged_by_autocast,
    graded_batch,
    leaves,
    local,
    value_and_gradients,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())
CASE = next(case for case in GOLDEN["tests"] if case["id"] == "mrl_infonce")
TAU = torch.tensor(0.1, dtype=torch.float64)


class Recorded:
    """An objective that keeps the batches it is called with."""

    def __init__(self) -> None:
        self.seen: list[ContrastiveEmbeddings] = []

    def __call__(self, e: ContrastiveEmbeddings, temperature: Tensor) -> LossOutput:
        self.seen.append(e)
        return LossOutput(e.queries.sum() / temperature.mean(), {"width": torch.tensor(1.0)})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_total_and_every_width_equal_the_golden_numbers(dtype: torch.dtype):
    inputs, expected = CASE["inputs"], CASE["expected"]
    fixture = GOLDEN["fixture_A"]
    index = torch.arange(3)
    queries, documents = (torch.tensor(fixture[name], dtype=dtype) for name in "QP")
    e = ContrastiveEmbeddings.of_one_process(queries, documents, index, index, index)
    plain = InfoNCE(hard_negatives="none", duplicate_id=False)
    output = Matryoshka(plain, inputs["dims"], inputs["weights"])(
        e, torch.tensor(inputs["tau"], dtype=dtype)
    )
    precision = 2e-9 if dtype == torch.float64 else 1e-5
    assert output.loss.dtype == dtype
    assert output.loss.item() == pytest.approx(expected["total"], abs=precision)
    for dim, value in zip(inputs["dims"], expected["per_dim"], strict=True):
        assert output.metrics[f"loss_dim_{dim}"].item() == pytest.approx(value, abs=precision)
    assert abs(output.loss.item() - expected["WRONG_no_renormalise"]["total"]) > 0.1


@pytest.mark.parametrize(
    "loss",
    [InfoNCE(), CoSENT(), Distillation(), Sigmoid().double()],
    ids=lambda x: type(x).__name__,
)
def test_the_full_width_alone_is_the_plain_loss(loss: object):
    e = graded_batch()
    plain = value_and_gradients(loss, e, TAU)
    for found, expected in zip(
        value_and_gradients(Matryoshka(loss, [8], [1.0]), e, TAU), plain, strict=True
    ):
        assert torch.equal(found, expected)


@settings(max_examples=30, deadline=None, database=None)
@given(
    st.dictionaries(st.integers(1, 8), st.floats(0.1, 3), min_size=1, max_size=5),
    st.integers(0, 99),
)
def test_it_is_the_weighted_sum_over_truncated_and_normalised_batches(
    weight_of: dict[int, float], seed: int
):
    e = graded_batch(seed=seed)
    loss = InfoNCE(hard_negatives="own")
    found = value_and_gradients(Matryoshka(loss, list(weight_of), list(weight_of.values())), e, TAU)
    e, tau = leaves(e), TAU.clone().requires_grad_()
    views = {d: e.mapped(lambda x, d=d: normalize(x[:, :d], dim=-1)) for d in range(1, 8)}
    views[8] = e  # unit rows as they are
    expected = sum(weight * loss(views[dim], tau).loss for dim, weight in weight_of.items())
    expected.backward()
    slow = expected.detach(), e.queries.grad, e.documents.grad, tau.grad
    for fast, wanted in zip(found, slow, strict=True):
        torch.testing.assert_close(fast, wanted, rtol=1e-7, atol=1e-10)


def test_weights_are_one_when_none_are_given():
    e = graded_batch()
    one = Matryoshka(InfoNCE(), [8, 4], [1.0, 1.0])(e, TAU).loss
    assert Matryoshka(InfoNCE(), [8, 4])(e, TAU).loss == one


def test_every_width_gets_the_full_width_without_gradient_and_the_same_draw_seed():
    recorded = Recorded()
    e = leaves(graded_batch())
    Matryoshka(recorded, [8, 4, 2])(e, TAU)
    assert [x.queries.shape[1] for x in recorded.seen] == [8, 4, 2]
    assert {x.draw_seed for x in recorded.seen} == {e.draw_seed}
    for seen in recorded.seen[1:]:
        assert seen.all_queries is seen.queries
        assert torch.equal(seen.full.documents, e.documents)
        assert torch.equal(seen.full.queries, e.queries)
        assert not seen.full.documents.requires_grad
        torch.testing.assert_close(seen.documents.norm(dim=-1), torch.ones(15).double())


def test_the_outermost_full_width_is_kept():
    recorded = Recorded()
    e = graded_batch()
    Matryoshka(Matryoshka(recorded, [4, 2]), [8, 6])(e, TAU)
    for seen in recorded.seen:
        assert seen.full.documents.shape[1] == 8


def test_a_mask_drops_the_same_pairs_at_every_width():
    # Documents 0 and 1 are near each other in full, orthogonal in the first two dimensions.
    documents = torch.tensor(
        [[0.1, 0.0, 0.7, 0.7], [0.0, 0.1, 0.7, 0.7], [0.0, -0.7, 0.7, 0.0]], dtype=torch.float64
    )
    documents = normalize(documents, dim=-1)
    index = torch.arange(3)
    e = ContrastiveEmbeddings.of_one_process(documents, documents, index, index, index)
    masked = InfoNCE(similarity_mask=DocumentSimilarityMask(0.9))
    at_two = Matryoshka(masked, [2])(e, TAU)
    assert at_two.metrics["masked_fraction"].item() == pytest.approx(2 / 6)
    masked_by_prefix = masked(e.mapped(lambda x: normalize(x[:, :2], dim=-1)), TAU)
    assert masked_by_prefix.metrics["masked_fraction"] == 0


def test_unprefixed_metrics_are_those_of_the_largest_width():
    e = graded_batch()
    metrics = Matryoshka(InfoNCE(), [2, 8, 4])(e, TAU).metrics
    plain = InfoNCE()(e, TAU)
    for name, value in plain.metrics.items():
        assert torch.equal(metrics[name], value)
    assert torch.equal(metrics["loss_dim_8"], plain.loss)
    assert metrics.keys() - plain.metrics.keys() == {"loss_dim_2", "loss_dim_4", "loss_dim_8"}


def test_parameters_of_the_objective_are_parameters_of_the_wrapper():
    loss = Sigmoid()
    assert list(Matryoshka(loss, [8]).parameters()) == [loss.bias]


def test_at_step_reaches_the_objective_and_shares_parameters():
    late = InfoNCE(similarity_mask=DocumentSimilarityMask(0.9, from_step=10))
    wrapped = Matryoshka(late, [8, 4], [1.0, 0.5])
    early = wrapped.at_step(9)
    assert early.loss == late.at_step(9)
    assert (early.dims, early.weights) == ((8, 4), (1.0, 0.5))
    assert Matryoshka(Sigmoid(), [8]).at_step(3).loss.bias.requires_grad


@pytest.mark.parametrize(
    "loss",
    [InfoNCE(), CoSENT(), Distillation(), Sigmoid(bias_init=-1.0).double()],
    ids=lambda x: type(x).__name__,
)
def test_processes_together_give_the_value_and_gradients_of_one(loss: object):
    assert_equal_over_processes(Matryoshka(loss, [8, 4], [1.0, 0.3]), graded_batch(), TAU)


def test_the_view_of_a_process_with_part_of_the_rows_has_all_queries():
    recorded = Recorded()
    Matryoshka(recorded, [4])(local(graded_batch(), slice(0, 2)), TAU)
    (seen,) = recorded.seen
    assert (len(seen.queries), len(seen.all_queries)) == (2, 6)
    assert torch.equal(seen.queries, seen.all_queries[:2])


def test_autocast_does_not_change_the_value():
    assert_unchanged_by_autocast(Matryoshka(InfoNCE(), [8, 4]), graded_batch(), TAU)


def test_a_dim_wider_than_the_embeddings_names_both():
    with pytest.raises(ValueError, match="dim 16 is wider than the embeddings, which have 8"):
        Matryoshka(InfoNCE(), [16, 4])(graded_batch(), TAU)


@pytest.mark.parametrize(
    ("dims", "weights", "message"),
    [
        ([], None, r"dims are \[\]"),
        ([4, 4], None, r"dims are \[4, 4\]; give different positive widths"),
        ([0], None, r"dims are \[0\]"),
        ([8, 4], [1.0], r"weights are \[1.0\] for dims \[8, 4\]"),
        ([8], [-1.0], "one positive weight for each dim"),
    ],
)
def test_dims_and_weights_that_cannot_be_used_are_named(dims: list, weights: list, message: str):
    with pytest.raises(ValueError, match=message):
        Matryoshka(InfoNCE(), dims, weights)
