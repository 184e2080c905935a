"""What golden cases say beside their loss: scores, surviving negatives, weights, mistakes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from mmembed.losses import pools
from mmembed.losses.distillation import Distillation
from mmembed.losses.info_nce import Hardness, InfoNCE
from mmembed.losses.masks import FalseNegatives
from mmembed.losses.matryoshka import Matryoshka
from mmembed.losses.mixing import mix_lists
from mmembed.losses.weights import Focal
from tests.losses.test_distillation import one_row
from tests.losses.test_golden_losses import (
    CASES,
    LOSSES,
    PLAIN,
    PRECISIONS,
    five_terms,
    fixture_a,
    near,
)

ALL = slice(None)
EXACT = {"rtol": 0, "atol": 2e-9}


def of_case(name: str, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(CASES[name]["inputs"]["tau"], dtype=dtype)


def test_cosines_of_the_fixture_are_the_golden_ones():
    e, expected = fixture_a(), CASES["A0_similarities"]["expected"]
    positives, hard = e.documents[:3], e.documents[3:]
    for name, made in {
        "S_qp": e.queries @ positives.T,
        "S_qq": e.queries @ e.queries.T,
        "S_pp": positives @ positives.T,
        "S_qh[i][j][k]": (e.queries @ hard.T).reshape(3, 3, 2),
        "S_ph[i][j][k]": (positives @ hard.T).reshape(3, 3, 2),
    }.items():
        wanted = torch.tensor(expected[name], dtype=torch.float64)
        torch.testing.assert_close(made, wanted, rtol=0, atol=1e-12)


@PRECISIONS
def test_symmetric_loss_is_the_mean_of_two_golden_directions(dtype: torch.dtype, tolerance: float):
    e, expected = fixture_a(dtype, hard=False), CASES["infonce_symmetric"]["expected"]
    turned = replace(e, queries=e.documents, all_queries=e.documents, documents=e.queries)
    tau = of_case("infonce_symmetric", dtype)
    assert PLAIN(e, tau).loss.item() == near(expected["q2d"], tolerance)
    assert PLAIN(turned, tau).loss.item() == near(expected["d2q"], tolerance)


def test_the_shared_duplicate_makes_the_golden_difference():
    e, expected = fixture_a(), CASES["infonce_shared_idmask"]["expected"]
    unmasked = InfoNCE(duplicate_id=False)(e, of_case("infonce_shared_idmask")).loss.item()
    assert unmasked == near(expected["must_differ_from"], 2e-9)
    assert expected["mean"] < unmasked - 0.05


@PRECISIONS
def test_wrong_weightings_give_the_wrong_golden_numbers_and_ours_gives_neither(
    dtype: torch.dtype, tolerance: float
):
    wrong = CASES["rzen_WRONG_variants"]["expected"]
    e, tau, alpha = fixture_a(dtype), torch.tensor(0.1, dtype=dtype), 1.0
    # w on the positive too adds alpha * s to every logit: another temperature
    also = PLAIN(e, 1 / (1 / tau + alpha)).loss.item()
    assert also == near(wrong["weight_also_on_positive"], tolerance)
    divided = replace(PLAIN, hardness=Hardness(alpha / 0.1))(e, tau).loss.item()
    assert divided == near(wrong["alpha_divided_by_tau"], tolerance)
    ours = LOSSES["rzen_tau0.1_alpha1_nofn"](e, tau).loss.item()
    assert all(abs(ours - number) > 0.1 for number in wrong.values())


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("qwen3_")])
def test_every_pool_has_as_many_live_negatives_as_the_golden_one(name: str):
    e, loss = fixture_a(), five_terms(CASES[name])
    masks = FalseNegatives(
        e, duplicate_id=loss.duplicate_id, same_class=False, margin=loss.margin_mask,
        similarity=None,
    )  # fmt: skip
    documents = pools.query_document(
        e, in_batch=loss.in_batch, hard=loss.hard_negatives, masks=masks.query_document()
    )
    live = documents.select(ALL, ALL, e.queries @ e.documents.T).live
    mine = e.owner == e.row[:, None]
    counts = {"qh": (live & mine).sum(1), "qd": (live & ~mine).sum(1)}
    queries = pools.query_query(e, masks=masks.query_query())
    counts["qq"] = queries.select(ALL, ALL, e.queries @ e.queries.T).live.sum(1)
    if loss.document_document != "none":
        pool = pools.document_document(
            e,
            documents=loss.document_document,
            own=loss.own_documents,
            masks=masks.document_document(),
        )
        counts["dd"] = pool.select(ALL, ALL, pool.left @ pool.right.T).live.sum(1)
    for row, expected in enumerate(CASES[name]["expected"]["live_negatives_per_row"]):
        assert {term: counts[term][row].item() for term in expected} == expected


def test_mixed_lists_have_the_golden_weights():
    e, expected = fixture_a(), CASES["kalm_mixed_negatives"]["expected"]["list_weights"]
    for row, vector in enumerate(mix_lists(e)):
        own = e.documents[3 + 2 * row : 5 + 2 * row]
        weights = torch.linalg.lstsq(own.T, vector[:, None]).solution[:, 0]
        assert (weights / weights.sum()).tolist() == [
            near(weight, 2e-9) for weight in expected[row]
        ]


def test_focal_weight_of_two_logits_is_the_golden_one():
    case = CASES["kalm_focal_gradient"]
    inputs, expected = case["inputs"], case["expected"]
    logits = torch.tensor([inputs["logits"]], dtype=torch.float64)
    nll = cross_entropy(logits, torch.tensor([0]))
    assert nll.item() == near(expected["nll"], 2e-9)
    assert math.exp(-nll.item()) == near(expected["p"], 2e-9)
    weight = Focal(inputs["gamma"]).weight(nll)
    assert weight.item() == near(expected["w"], 2e-9)


@PRECISIONS
def test_matryoshka_weights_are_not_normalised_unless_they_are_given_so(
    dtype: torch.dtype, tolerance: float
):
    inputs, expected = CASES["mrl_infonce"]["inputs"], CASES["mrl_infonce"]["expected"]
    shares = [weight / sum(inputs["weights"]) for weight in inputs["weights"]]
    e, tau = fixture_a(dtype, hard=False), of_case("mrl_infonce", dtype)
    for weights, key in ((inputs["weights"], "total"), (shares, "total_if_weights_normalised")):
        found = Matryoshka(PLAIN, inputs["dims"], weights)(e, tau).loss.item()
        assert found == near(expected[key], tolerance)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("distill")])
def test_the_student_is_drawn_towards_the_golden_teacher(name: str):
    inputs, expected = CASES[name]["inputs"], CASES[name]["expected"]
    cosines = torch.tensor(inputs["student_cos"], dtype=torch.float64, requires_grad=True)
    scores = torch.tensor(inputs["teacher_logits"], dtype=torch.float64)
    tau = torch.tensor(inputs["student_tau"], dtype=torch.float64)
    output = Distillation(teacher_temperature=inputs["teacher_T"])(one_row(cosines, scores), tau)
    output.loss.backward()
    # dL/dlogit = student - teacher
    teacher = (cosines.detach() / tau).softmax(0) - tau * cosines.grad
    wanted = torch.tensor(expected["teacher_p"], dtype=torch.float64)
    torch.testing.assert_close(teacher, wanted, **EXACT)
    entropy = -(wanted * wanted.log()).sum().item()
    assert output.metrics["teacher_entropy"].item() == pytest.approx(entropy, abs=1e-8)
    assert expected["CE"] - expected["KL"] == pytest.approx(entropy, abs=1e-8)
