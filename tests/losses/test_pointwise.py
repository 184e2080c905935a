"""The yes/no objective: golden numbers, and the chunked vocabulary against stored logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from mmembed.losses.pointwise import yes_no_loss, yes_no_loss_from_states, yes_no_score

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())
CASE = next(case for case in GOLDEN["tests"] if case["id"] == "reranker_pointwise")
IDS = CASE["inputs"]["yes"], CASE["inputs"]["no"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("form", "label", "key"),
    [
        ("full_vocabulary", "yes", "sft_full_vocab_label_yes"),
        ("full_vocabulary", "no", "sft_full_vocab_label_no"),
        ("two_way", "yes", "two_way_label_yes"),
        ("two_way", "no", "two_way_label_no"),
    ],
)
def test_value_equals_the_golden_number_from_logits_and_from_states(
    form: str, label: str, key: str, dtype: torch.dtype
):
    expected = CASE["expected"][key]
    logits = torch.tensor([CASE["inputs"]["logits"]], dtype=dtype)
    labels = torch.tensor([label == "yes"])
    for output in (
        yes_no_loss(logits, labels, *IDS, form),
        yes_no_loss_from_states(
            torch.ones(1, 1, dtype=dtype), logits.T, labels, *IDS, form, chunk_tokens=2
        ),
    ):
        assert output.loss.dtype == dtype
        tolerance = 2e-9 if dtype == torch.float64 else 1e-6
        assert output.loss.item() == pytest.approx(expected, abs=tolerance)
        assert output.metrics["accuracy"] == (label == "yes")


def test_score_is_the_sigmoid_of_logits_and_not_of_probabilities():
    logits = torch.tensor([CASE["inputs"]["logits"]], dtype=torch.float64)
    score = yes_no_score(logits, *IDS).item()
    assert score == pytest.approx(CASE["expected"]["score"], abs=2e-9)
    assert abs(score - CASE["expected"]["LITERAL_PAPER_exp_of_probability"]) > 0.1


def random_states(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(5, 4, generator=generator, dtype=torch.float64).to(dtype)
    head = torch.randn(23, 4, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.tensor([True, False, True, True, False])
    return states.requires_grad_(), head.requires_grad_(), labels


@settings(max_examples=30, deadline=None, database=None)
@given(st.integers(1, 30), st.sampled_from(["full_vocabulary", "two_way"]))
def test_chunks_of_the_vocabulary_give_the_value_and_gradients_of_stored_logits(
    chunk_tokens: int, form: str
):
    results = []
    for chunked in (True, False):
        states, head, labels = random_states()
        if chunked:
            output = yes_no_loss_from_states(
                states, head, labels, 19, 2, form, chunk_tokens=chunk_tokens
            )
        else:
            output = yes_no_loss(states @ head.T, labels, 19, 2, form)
        output.loss.backward()
        results.append((output.loss.detach(), states.grad, head.grad, output.metrics["accuracy"]))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_full_vocabulary_is_cross_entropy_with_the_label_token():
    states, head, labels = random_states()
    logits = states @ head.T
    expected = cross_entropy(logits, torch.where(labels, 19, 2))
    torch.testing.assert_close(yes_no_loss(logits, labels, 19, 2).loss, expected)


@settings(max_examples=30, deadline=None, database=None)
@given(st.floats(-20, 20), st.floats(-20, 20), st.booleans())
def test_two_way_is_the_log_of_the_score(yes: float, no: float, label: bool):
    logits = torch.tensor([[no, 7.0, yes]], dtype=torch.float64)
    loss = yes_no_loss(logits, torch.tensor([label]), 2, 0, "two_way").loss
    score = yes_no_score(logits, 2, 0) if label else yes_no_score(logits, 0, 2)
    torch.testing.assert_close(loss, -score.log()[0], rtol=1e-6, atol=1e-9)


def test_no_tensor_of_rows_by_vocabulary_is_kept_for_the_backward_pass():
    num_tokens, rows = 4096, 64
    states = torch.randn(rows, 8, requires_grad=True)
    head = torch.randn(num_tokens, 8, requires_grad=True)
    kept: dict[int, int] = {}  # storages, so that a view is counted once

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    labels = torch.ones(rows, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yes_no_loss_from_states(states, head, labels, 1, 0, chunk_tokens=512)
        chunked = sum(kept.values())
        kept.clear()
        yes_no_loss(states @ head.T, labels, 1, 0)
    matrix = rows * num_tokens * 4
    assert sum(kept.values()) > matrix
    assert chunked < matrix / 4


def test_bfloat16_under_autocast_is_computed_from_the_same_numbers_in_float32():
    states, head, labels = random_states(torch.bfloat16)
    expected = yes_no_loss_from_states(states.float(), head.float(), labels, 19, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = yes_no_loss_from_states(states, head, labels, 19, 2, chunk_tokens=7)
        logits = states.float().double() @ head.float().double().T
        stored = yes_no_loss(logits.float(), labels, 19, 2)
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(output.loss, stored.loss)
    output.loss.backward()
    assert states.grad.dtype == head.grad.dtype == torch.bfloat16


def test_a_tie_is_not_accurate():
    output = yes_no_loss(torch.zeros(2, 3), torch.tensor([True, False]), 1, 0)
    assert output.metrics["accuracy"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"yes_id": 1, "no_id": 1}, "yes_id 1 and no_id 1 must be two different tokens of 0..4"),
        ({"yes_id": 5}, r"0\.\.4; take them from the tokenizer"),
        ({"no_id": -1}, "no_id -1"),
        ({"labels": torch.tensor([1, 0])}, "torch.int64; expected .2,. and torch.bool"),
        ({"labels": torch.tensor([True])}, r"shape \(1,\)"),
        ({"form": "softmax"}, "'softmax'; allowed: full_vocabulary, two_way"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change: dict, message: str):
    arguments = {"labels": torch.tensor([True, False]), "yes_id": 3, "no_id": 1, **change}
    with pytest.raises(ValueError, match=message):
        yes_no_loss(torch.zeros(2, 5), **arguments)
    with pytest.raises(ValueError, match=message):
        yes_no_loss_from_states(torch.zeros(2, 4), torch.zeros(5, 4), **arguments)
