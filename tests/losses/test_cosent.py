"""CoSENT against the matrix of all pairs, its closed forms and the golden numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import softplus

from mmembed.losses.cosent import CoSENT
from tests.losses.graded_batch import (
    assert_equal_over_processes,
    assert_unchanged_by_autocast,
    graded_batch,
    local,
    pairs_with_cosines,
    value_and_gradients,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())
CASES = {c["id"]: c for c in GOLDEN["tests"] if c["id"].startswith("cosent")}
TAU = torch.tensor(0.1, dtype=torch.float64)


def matrix(cosines: Tensor, labels: Tensor, tau: float) -> Tensor:
    """The published form: all n x n differences."""
    differences = (cosines[None, :] - cosines[:, None]) / tau
    differences = differences[labels[:, None] > labels[None, :]]
    return torch.cat([torch.zeros(1, dtype=cosines.dtype), differences]).logsumexp(0)


def loss_and_gradient(cosines: Tensor, labels: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    cosines = cosines.clone().requires_grad_()
    loss = CoSENT()(pairs_with_cosines(cosines, labels), torch.tensor(tau)).loss
    loss.backward()
    return loss.detach(), cosines.grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_equal_the_golden_numbers(name: str, dtype: torch.dtype):
    inputs, expected = CASES[name]["inputs"], CASES[name]["expected"]
    cosines = torch.tensor(inputs["cos"], dtype=dtype, requires_grad=True)
    labels = torch.tensor(inputs["label"], dtype=dtype)
    tau = torch.tensor(inputs["tau"], dtype=dtype)
    output = CoSENT()(pairs_with_cosines(cosines, labels), tau)
    output.loss.backward()
    precision = 2e-9 if dtype == torch.float64 else 1e-5
    assert output.loss.dtype == dtype
    assert output.loss.item() == pytest.approx(expected["loss"], rel=precision, abs=precision)
    gradient = torch.tensor(expected["dL_dcos"], dtype=dtype)
    torch.testing.assert_close(cosines.grad, gradient, rtol=precision, atol=precision)
    if "n_ordered_pairs" in expected:
        assert output.metrics["ordered_pairs"] == expected["n_ordered_pairs"]


@settings(max_examples=100, deadline=None, database=None)
@given(
    st.lists(
        st.tuples(st.floats(-1, 1), st.sampled_from([0.0, 1.0, 2.5, 4.0])), min_size=1, max_size=12
    ),
    st.sampled_from([0.01, 0.1, 1.0]),
)
def test_running_sums_equal_the_matrix_of_all_pairs(pairs: list, tau: float):
    cosines, labels = torch.tensor(pairs, dtype=torch.float64).T
    slow = cosines.clone().requires_grad_()
    tau = float(torch.tensor(tau))  # as the float32 temperature rounds it
    expected = matrix(slow, labels, tau)
    expected.backward()
    loss, gradient = loss_and_gradient(cosines, labels, tau)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, slow.grad, rtol=1e-9, atol=1e-10)


@settings(max_examples=50, deadline=None, database=None)
@given(st.floats(-1, 1), st.floats(-1, 1), st.sampled_from([0.02, 0.5]))
def test_two_pairs_give_softplus_of_their_difference(lower: float, higher: float, tau: float):
    cosines = torch.tensor([lower, higher], dtype=torch.float64)
    loss, _ = loss_and_gradient(cosines, torch.tensor([1.0, 3.0]), tau)
    tau = float(torch.tensor(tau))
    torch.testing.assert_close(loss, softplus((cosines[0] - cosines[1]) / tau, threshold=800))


@pytest.mark.parametrize("count", [1, 7])
def test_ties_and_single_pairs_give_zero_and_zero_gradient(count: int):
    loss, gradient = loss_and_gradient(torch.linspace(-1, 1, count), torch.ones(count), 0.02)
    assert loss == 0
    assert torch.equal(gradient, torch.zeros(count))


def test_pairs_in_reverse_order_at_a_low_temperature_neither_overflow_nor_turn_into_nan():
    cosines = torch.tensor([1.0, 1.0, -1.0, -1.0])
    loss, gradient = loss_and_gradient(cosines, torch.tensor([0.0, 1.0, 2.0, 2.0]), 1e-3)
    assert loss.item() == pytest.approx(2000 + math.log(4))
    expected = torch.tensor([500.0, 500.0, -500.0, -500.0])
    # a float32 logit of 1000 is known to 6e-5, and so is its exponential
    torch.testing.assert_close(gradient, expected, rtol=2e-4, atol=0)


def test_fifty_thousand_pairs_need_no_matrix():
    count = 50_000  # the matrix would take 10 GB
    labels = torch.arange(count) % 2
    loss, gradient = loss_and_gradient(torch.zeros(count), labels.float(), 0.05)
    assert loss.item() == pytest.approx(math.log1p((count / 2) ** 2), rel=1e-5)
    # each half has half of the pairs: every pair pushes its two cosines apart by 1 / tau
    expected = torch.where(labels == 1, -1.0, 1.0) / 0.05 / (count / 2)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=0)


def test_order_of_rows_does_not_matter():
    e = graded_batch()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = replace(
        e,
        queries=e.queries[order],
        all_queries=e.queries[order],
        positive=e.positive[order],
        all_positive=e.positive[order],
    )
    torch.testing.assert_close(CoSENT()(shuffled, TAU).loss, CoSENT()(e, TAU).loss)


def test_processes_together_give_the_value_and_gradients_of_one():
    assert_equal_over_processes(CoSENT(), graded_batch(), TAU)


def test_every_process_reports_the_loss_of_the_whole_batch():
    e = graded_batch()
    assert CoSENT()(local(e, slice(1, 2)), TAU).loss == CoSENT()(e, TAU).loss


def test_hard_negatives_take_no_part():
    e = graded_batch()
    scores = torch.full_like(e.scores, torch.nan)
    scores[e.positive] = e.scores[e.positive]
    _, _, documents, _ = value_and_gradients(CoSENT(), replace(e, scores=scores), TAU)
    touched = documents.abs().sum(-1) > 0
    assert set(touched.nonzero().flatten().tolist()) <= set(e.positive.tolist())


def test_autocast_does_not_change_the_value():
    assert_unchanged_by_autocast(CoSENT(), graded_batch(), TAU)


def test_rank_correlation_is_that_of_ranks_with_ties_in_the_middle():
    cosines = torch.tensor([0.1, 0.5, 0.4, 0.9])
    for labels, expected in [
        ([0.0, 2.0, 1.0, 9.0], 1.0),
        ([9.0, 1.0, 2.0, 0.0], -1.0),
        ([5.0, 5.0, 5.0, 5.0], 0.0),
        # ranks 1, 3.5, 2, 3.5 against 1, 3, 2, 4: covariance 4.5, variances 4.5 and 5
        ([0.0, 2.0, 1.0, 2.0], 4.5 / math.sqrt(4.5 * 5)),
    ]:
        metrics = CoSENT()(
            pairs_with_cosines(cosines, torch.tensor(labels)), torch.tensor(0.1)
        ).metrics
        assert metrics["spearman"].item() == pytest.approx(expected)
    assert metrics["positive_similarity"].item() == pytest.approx(0.475)


def test_missing_scores_name_the_row_and_the_remedy():
    e = graded_batch()
    with pytest.raises(ValueError, match="no scores; it needs the graded similarity"):
        CoSENT()(replace(e, scores=None), TAU)
    scores = e.scores.clone()
    scores[e.positive[4]] = torch.nan
    with pytest.raises(ValueError, match=r"row 4 of the global batch .* 1 of 6 rows"):
        CoSENT()(local(replace(e, scores=scores), slice(0, 2)), TAU)


def test_rows_of_two_temperatures_are_refused():
    with pytest.raises(ValueError, match=r"from 0\.1 to 0\.2; .* batches of one task"):
        CoSENT()(graded_batch(), torch.tensor([0.1, 0.1, 0.2, 0.1, 0.1, 0.1]))
