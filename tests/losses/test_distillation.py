"""Distillation against a loop over rows, the golden numbers and its identities."""

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

from mmembed.losses.distillation import Distillation
from mmembed.losses.embeddings import ContrastiveEmbeddings
from tests.losses.graded_batch import (
    assert_equal_over_processes,
    assert_unchanged_by_autocast,
    graded_batch,
    local,
    value_and_gradients,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())
CASES = {c["id"]: c for c in GOLDEN["tests"] if c["id"].startswith("distill")}
TAU = torch.linspace(0.05, 0.3, 6, dtype=torch.float64)


def one_row(cosines: Tensor, scores: Tensor) -> ContrastiveEmbeddings:
    """One query of width 1; the documents are the cosines."""
    zeros = torch.zeros(len(cosines), dtype=torch.int64)
    return ContrastiveEmbeddings.of_one_process(
        torch.ones(1, 1, dtype=cosines.dtype), cosines[:, None], zeros[:1], zeros,
        torch.arange(len(cosines)), scores=scores,
    )  # fmt: skip


def loop(e: ContrastiveEmbeddings, loss: Distillation, tau: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for i, row in enumerate(e.row.tolist()):
        columns = [c for c, owner in enumerate(e.owner.tolist()) if owner == row]
        cosines = torch.stack([e.queries[i] @ e.documents[c] for c in columns])
        teacher = (e.scores[columns] / loss.teacher_temperature).softmax(0)
        q = (cosines / (loss.student_temperature or tau[i])).softmax(0)
        for p_c, q_c in zip(teacher, q, strict=True):
            total = total - p_c * q_c.log()
            if loss.divergence == "kl":
                total = total + p_c * p_c.log()
    return total / len(e.queries)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("divergence", ["cross_entropy", "kl"])
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_equal_the_golden_numbers(
    name: str, divergence: str, dtype: torch.dtype
):
    inputs, expected = CASES[name]["inputs"], CASES[name]["expected"]
    cosines = torch.tensor(inputs["student_cos"], dtype=dtype, requires_grad=True)
    scores = torch.tensor(inputs["teacher_logits"], dtype=dtype)
    loss = Distillation(divergence, teacher_temperature=inputs["teacher_T"])
    output = loss(one_row(cosines, scores), torch.tensor(inputs["student_tau"], dtype=dtype))
    output.loss.backward()
    precision = 2e-9 if dtype == torch.float64 else 1e-5
    value = expected["CE" if divergence == "cross_entropy" else "KL"]
    assert output.loss.dtype == dtype
    assert output.loss.item() == pytest.approx(value, abs=precision)
    gradient = torch.tensor(expected["dL_dcos"], dtype=dtype)
    torch.testing.assert_close(cosines.grad, gradient, rtol=precision, atol=precision)


@pytest.mark.parametrize("student", [None, 0.05])
@pytest.mark.parametrize("divergence", ["cross_entropy", "kl"])
def test_rows_of_different_length_equal_the_loop(divergence: str, student: float | None):
    loss = Distillation(divergence, teacher_temperature=0.7, student_temperature=student)
    e, tau = graded_batch(), TAU.clone().requires_grad_()
    slow = e.mapped(lambda x: x.clone().requires_grad_())
    expected = loop(slow, loss, tau)
    expected.backward()
    if student is not None:
        with pytest.raises(AssertionError):  # the batch's temperature has no gradient then
            value_and_gradients(loss, e, TAU)
        torch.testing.assert_close(loss(e, TAU).loss, expected.detach())
        return
    found = value_and_gradients(loss, e, TAU)
    for fast, slow_value in zip(
        found, (expected.detach(), slow.queries.grad, slow.documents.grad, tau.grad), strict=True
    ):
        torch.testing.assert_close(fast, slow_value, rtol=1e-10, atol=1e-12)


@settings(max_examples=50, deadline=None, database=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(0, 99))
def test_cross_entropy_minus_kl_is_the_teachers_entropy(num_hard: list[int], seed: int):
    e = graded_batch(tuple([0, *num_hard]), seed=seed)
    tau = torch.tensor(0.1, dtype=torch.float64)
    cross_entropy, kl = (Distillation(d)(e, tau) for d in ("cross_entropy", "kl"))
    entropy = cross_entropy.metrics["teacher_entropy"]
    torch.testing.assert_close(cross_entropy.loss - kl.loss, entropy)
    assert kl.loss > -1e-12
    rows = [e.scores[e.owner == row].softmax(0) for row in range(len(e.queries))]
    expected = sum(-(p * p.log()).sum() for p in rows) / len(rows)
    torch.testing.assert_close(entropy, expected)


def test_a_student_equal_to_its_teacher_has_no_divergence_and_full_agreement():
    e = graded_batch()
    cosines = (e.queries[e.owner] * e.documents).sum(-1)
    tau = torch.tensor(0.05, dtype=torch.float64)
    loss = Distillation("kl", teacher_temperature=0.05)
    e = replace(e, scores=cosines)
    output = loss(e, tau)
    assert abs(output.loss.item()) < 1e-12
    assert output.metrics["agreement"] == 1
    torch.testing.assert_close(output.metrics["positive_similarity"], cosines[e.positive].mean())


def test_a_collapsed_student_agrees_with_no_teacher():
    e = one_row(torch.full((3,), 0.5), torch.tensor([2.0, 1.0, 0.0]))
    output = Distillation()(e, torch.tensor(0.1))
    assert output.metrics["agreement"] == 0
    assert output.loss.item() == pytest.approx(math.log(3))


def test_a_query_without_hard_negatives_contributes_nothing():
    e = one_row(torch.tensor([0.5]), torch.tensor([3.0]))
    value, *gradients = value_and_gradients(Distillation(), e, torch.tensor([0.1]))
    assert value == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients)


def test_a_teacher_without_doubt_and_a_student_far_from_it_give_no_nan():
    e = one_row(torch.tensor([-1.0, 1.0]), torch.tensor([1e4, 0.0]))
    for divergence in ("cross_entropy", "kl"):
        output = Distillation(divergence)(e, torch.tensor(0.01))
        assert output.loss.item() == pytest.approx(200.0)


def test_processes_together_give_the_value_and_gradients_of_one():
    assert_equal_over_processes(Distillation(), graded_batch(), TAU)


def test_autocast_does_not_change_the_value():
    assert_unchanged_by_autocast(Distillation("kl"), graded_batch(), TAU)


def test_missing_teacher_scores_name_the_row_on_every_process():
    e = graded_batch()
    with pytest.raises(ValueError, match="no scores; it needs a teacher's score"):
        Distillation()(replace(e, scores=None), TAU)
    for bad in (torch.nan, torch.inf):
        scores = e.scores.clone()
        scores[(e.owner == 4).nonzero()[0]] = bad
        with pytest.raises(ValueError, match=rf"row 4 .* score {bad} .* 1 of 15 documents"):
            Distillation()(local(replace(e, scores=scores), slice(0, 2)), TAU[:2])


def test_unknown_divergence_and_temperatures_say_what_is_allowed():
    with pytest.raises(ValueError, match="'js'; allowed: cross_entropy, kl"):
        Distillation("js")
    with pytest.raises(ValueError, match="teacher_temperature is 0; it must be positive"):
        Distillation(teacher_temperature=0)
