"""The public loss API against numbers computed elsewhere (fp64 loops, tests/golden/losses.json)."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmembed.losses.embeddings import ContrastiveEmbeddings
from mmembed.losses.info_nce import Focal, Hardness, InfoNCE
from mmembed.losses.masks import DocumentSimilarityMask, MarginMask
from mmembed.losses.mixing import MixedNegatives, mix_lists, mix_pairs

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())
CASES = {case["id"]: case for case in GOLDEN["tests"]}
PLAIN = InfoNCE(hard_negatives="none", duplicate_id=False)


def fixture_a(
    dtype: torch.dtype = torch.float64, *, hard: bool = True, **facts: torch.Tensor
) -> ContrastiveEmbeddings:
    fixture = GOLDEN["fixture_A"]
    queries = torch.tensor(fixture["Q"], dtype=dtype)
    negatives = torch.tensor(fixture["H"], dtype=dtype)
    names = fixture["pos_id"] + [name for row in fixture["neg_id"] for name in row]
    count = 9 if hard else 3
    return ContrastiveEmbeddings.of_one_process(
        queries,
        torch.cat([torch.tensor(fixture["P"], dtype=dtype), negatives.flatten(0, 1)])[:count],
        positive=torch.arange(3),
        owner=torch.tensor([0, 1, 2, 0, 0, 1, 1, 2, 2])[:count],
        ids=torch.tensor([ord(name) for name in names])[:count],
        query_ids=torch.arange(3),
        **facts,
    )


def classes(case: dict) -> dict[str, torch.Tensor]:
    of_queries, of_hard = case["inputs"]["class_q"], case["inputs"]["class_h"]
    return {
        "query_classes": torch.tensor(of_queries),
        "document_classes": torch.tensor(of_queries + [c for row in of_hard for c in row]),
    }


def single_row(e: ContrastiveEmbeddings, index: int) -> ContrastiveEmbeddings:
    """The same global batch, seen by a process that owns one query."""
    rows = slice(index, index + 1)
    return replace(e, queries=e.queries[rows], row=e.row[rows], positive=e.positive[rows])


def rzen(case: dict, *, detach: bool = True) -> InfoNCE:
    delta = case["inputs"].get("delta")
    return InfoNCE(
        hard_negatives="none",
        duplicate_id=False,
        similarity_mask=None if delta is None else DocumentSimilarityMask(delta),
        hardness=Hardness(case["inputs"]["alpha"], detach=detach),
    )


def five_terms(case: dict) -> InfoNCE:
    """Of Qwen3-Embedding, with the variations that the case names."""
    given = case["inputs"]
    terms = given.get("terms", ["qh", "qq", "dd", "qd"])
    others = given.get("qd_pool", "all")
    dd_pool = given.get("dd_pool", "others_all")
    in_documents = {"qd": "query", "dd": "documents", "none": "none"}[given.get("dd_mask", "qd")]
    return InfoNCE(
        in_batch="qd" in terms,
        hard_negatives="shared" if "qd" in terms and others == "all" else "own",
        query_query="qq" in terms,
        document_document="none"
        if "dd" not in terms
        else "positives"
        if dd_pool == "others_pos"
        else "all",
        own_documents=dd_pool == "all_but_self",
        duplicate_id=given.get("id_mask", True),
        margin_mask=MarginMask(
            given["margin"] if given.get("mask_on", True) else None, in_documents
        ),
    )


CLASSIFICATION = InfoNCE(in_batch=False, query_query=True, duplicate_id=False, same_class=True)
LOSSES = {
    "infonce_inbatch": PLAIN,
    "infonce_symmetric": InfoNCE(hard_negatives="none", duplicate_id=False, symmetric=True),
    "infonce_hard_own": InfoNCE(hard_negatives="own", duplicate_id=False),
    "infonce_shared_idmask": InfoNCE(),
    "kalm_Z_eq3": InfoNCE(duplicate_id=False),
    "q3vl_classification": InfoNCE(in_batch=False, hard_negatives="own", duplicate_id=False),
    "rzen_full_pool": InfoNCE(similarity_mask=DocumentSimilarityMask(0.95), hardness=Hardness(9.0)),
    **{name: rzen(CASES[name]) for name in CASES if name.startswith("rzen_tau")},
    **{name: five_terms(CASES[name]) for name in CASES if name.startswith("qwen3_")},
    **{
        name: InfoNCE(query_query=True, duplicate_id=False)
        if "_all_" in name
        else InfoNCE(in_batch=False, hard_negatives="own", query_query=True, duplicate_id=False)
        for name in CASES
        if name.startswith("qzhou_retrieval")
    },
    **{name: CLASSIFICATION for name in CASES if name.startswith("qzhou_cls")},
}
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 2e-9), (torch.float32, 1e-5)], ids=["fp64", "fp32"]
)


def near(expected: float, tolerance: float) -> object:
    return pytest.approx(expected, rel=tolerance, abs=tolerance)


@PRECISIONS
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_every_row_equal_the_golden_number(
    name: str, dtype: torch.dtype, tolerance: float
):
    case = CASES[name]
    expected, tau = case["expected"], torch.tensor(case["inputs"]["tau"], dtype=dtype)
    e = fixture_a(dtype, **(classes(case) if "class_q" in case["inputs"] else {}))
    loss = LOSSES[name](e, tau).loss
    assert loss.dtype == dtype
    assert loss.item() == near(expected["mean"], tolerance)
    rows = LOSSES[name].row_losses(e, tau).tolist()
    if "per_row" in expected:
        assert rows == [near(value, tolerance) for value in expected["per_row"]]
    for index, value in enumerate(rows):
        assert LOSSES[name](single_row(e, index), tau).loss.item() == near(value, tolerance)


@PRECISIONS
@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("qzhou_cls")])
def test_class_masks_and_absent_positives_make_the_difference_they_should(
    name: str, dtype: torch.dtype, tolerance: float
):
    case = CASES[name]
    e, tau = fixture_a(dtype, **classes(case)), torch.tensor(case["inputs"]["tau"], dtype=dtype)
    unmasked = replace(CLASSIFICATION, same_class=False)(e, tau).loss.item()
    assert unmasked == near(case["expected"]["mean_unmasked"], tolerance)
    added = replace(CLASSIFICATION, in_batch=True)(e, tau).loss.item()
    assert added == near(case["expected"]["mean_if_inbatch_positives_added"], tolerance)


class GoldenMix(MixedNegatives):
    """The mixed negatives of the golden cases, with their weights instead of drawn ones."""

    def __call__(self, e: ContrastiveEmbeddings) -> torch.Tensor:
        weight = torch.tensor(
            CASES["kalm_mixed_negatives"]["inputs"]["pair_lambda"], dtype=torch.float64
        )
        first = torch.tensor([3, 5, 7])
        return torch.cat([mix_pairs(e.documents, first, first + 1, weight), mix_lists(e)])


def test_mixed_negatives_are_the_golden_vectors():
    e, expected = fixture_a(), CASES["kalm_mixed_negatives"]["expected"]
    mixed = GoldenMix()(e)
    vectors = torch.tensor(expected["h"] + expected["s"], dtype=torch.float64)
    torch.testing.assert_close(mixed, vectors, rtol=0, atol=2e-9)
    scores = torch.tensor(
        [h + s for h, s in zip(expected["S_qh_mixed"], expected["S_qs_mixed"], strict=True)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(e.queries @ mixed.T, scores, rtol=0, atol=2e-9)


@PRECISIONS
@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("kalm_focal_mix")])
def test_focal_weight_and_mixing_equal_the_golden_rows(
    name: str, dtype: torch.dtype, tolerance: float
):
    case = CASES[name]
    given, expected = case["inputs"], case["expected"]
    e, tau = fixture_a(dtype), torch.tensor(given["tau"], dtype=dtype)
    mixed = GoldenMix() if "mix=True" in name else MixedNegatives()
    plain = InfoNCE(duplicate_id=False, mixed_negatives=mixed)
    focal = replace(plain, focal=Focal(given["gamma"], given["focal_prob_from"]))
    nll, rows = plain.row_losses(e, tau), focal.row_losses(e, tau)
    assert nll.tolist() == [near(value, tolerance) for value in expected["nll"]]
    assert (rows / nll).tolist() == [near(value, tolerance) for value in expected["weight"]]
    assert plain(e, tau).loss.item() == near(expected["mean_gamma0"], tolerance)
    assert focal(e, tau).loss.item() == near(expected["mean"], tolerance)


def one_negative(logits: list[float]) -> tuple[ContrastiveEmbeddings, torch.Tensor]:
    """A row whose two scores are free variables: at tau = 1 they are the logits."""
    scores = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    documents = torch.eye(2, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.int64)
    e = ContrastiveEmbeddings.of_one_process(
        scores, documents, zero, torch.zeros(2, dtype=torch.int64), torch.arange(2)
    )
    return e, scores


@pytest.mark.parametrize("detach", [True, False], ids=["detached", "not_detached"])
def test_focal_gradient_equals_the_golden_gradient(detach: bool):
    case = CASES["kalm_focal_gradient"]
    e, scores = one_negative(case["inputs"]["logits"])
    loss = InfoNCE(focal=Focal(case["inputs"]["gamma"], detach=detach))(e, torch.tensor(1.0)).loss
    assert loss.item() == near(case["expected"]["loss"], 2e-9)
    loss.backward()
    expected = case["expected"]["grad_detached" if detach else "grad_differentiable"]
    assert scores.grad[0].tolist() == [near(value, 2e-9) for value in expected]


@pytest.mark.parametrize("detach", [True, False], ids=["detached", "not_detached"])
def test_focal_weight_of_a_saturated_row_is_finite_in_value_and_gradient(detach: bool):
    case = CASES["kalm_focal_saturated"]
    e, scores = one_negative(case["inputs"]["logits"])
    loss = InfoNCE(focal=Focal(case["inputs"]["gamma"], detach=detach))(e, torch.tensor(1.0)).loss
    loss.backward()
    assert loss.item() == pytest.approx(case["expected"]["loss"], abs=1e-12)
    assert scores.grad.abs().max().item() == pytest.approx(
        case["expected"]["grad_abs_max"], abs=1e-12
    )


@pytest.mark.parametrize("detach", [True, False], ids=["detached", "not_detached"])
@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("rzen_tau")])
def test_gradient_of_scores_and_theta_equals_the_golden_gradient(name: str, detach: bool):
    case = CASES[name]
    e = fixture_a(hard=False)
    # Against unit axes as documents, S = S I: the scores are free variables. Masks still come
    # from the documents of the fixture.
    scores = (e.queries @ e.documents.T).requires_grad_()
    theta = torch.tensor(math.log(case["inputs"]["tau"]), dtype=torch.float64, requires_grad=True)
    rows = torch.arange(3)
    free = ContrastiveEmbeddings.of_one_process(
        scores, torch.eye(3, dtype=torch.float64), rows, rows, rows, full=e
    )
    output = rzen(case, detach=detach)(free, theta.exp())
    assert output.loss.item() == pytest.approx(case["expected"]["mean"], abs=2e-9)
    output.loss.backward()
    key = "dL_dS_detached" if detach else "dL_dS_not_detached"
    expected = torch.tensor(case["expected"][key], dtype=torch.float64)
    torch.testing.assert_close(scores.grad, expected, rtol=0, atol=2e-9)
    expected_theta = case["expected"]["dL_dtheta(tau=exp(theta))"]
    assert theta.grad.item() == pytest.approx(expected_theta, abs=2e-9)


@pytest.mark.parametrize(("alpha", "key"), [(9.0, "loss"), (0.0, "loss_without_weight")])
def test_duplicate_of_a_perfect_positive_costs_its_weight(alpha: float, key: str):
    unit = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    e = ContrastiveEmbeddings.of_one_process(
        unit, unit.repeat(2, 1), torch.tensor([0]), torch.tensor([0, 0]), torch.tensor([5, 5])
    )
    tau = torch.tensor(0.02, dtype=torch.float64)
    loss = InfoNCE(duplicate_id=False, hardness=Hardness(alpha))(e, tau).loss.item()
    assert loss == pytest.approx(CASES["rzen_duplicate_floor"]["expected"][key], abs=2e-9)
    masked = InfoNCE(hardness=Hardness(alpha))(e, tau)
    assert masked.loss.item() == 0.0
    assert masked.metrics["masked_fraction"].item() == 1.0


def test_row_with_every_negative_masked_has_loss_and_gradient_exactly_zero():
    queries = torch.tensor([[0.6, 0.8], [0.8, 0.6]], requires_grad=True)
    documents = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    e = ContrastiveEmbeddings.of_one_process(
        queries, documents, torch.arange(2), torch.arange(2), torch.tensor([3, 3])
    )
    output = InfoNCE(hardness=Hardness(9.0, detach=False))(e, torch.tensor(0.02))
    output.loss.backward()
    expected = CASES["all_masked_row"]["expected"]
    assert output.loss.item() == expected["loss"]
    assert queries.grad.abs().max().item() == expected["grad"]
    assert documents.grad.abs().max().item() == expected["grad"]


def test_bfloat16_embeddings_under_autocast_do_not_round_the_logits():
    inputs, expected = (CASES["low_precision_logits"][part] for part in ("inputs", "expected"))
    logits = torch.tensor(inputs["cos"], dtype=torch.float64) / inputs["tau"]
    for name, rounded in (
        ("exact_logits", logits),
        ("bf16_logits", logits.bfloat16()),
        ("fp16_logits", logits.half()),
    ):
        assert rounded.tolist() == pytest.approx(expected[name], abs=1e-9)
    # Cosines .99 and .994 (positive): exact in the documents, queries are unit axes.
    e = ContrastiveEmbeddings.of_one_process(
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[cosine, 0.0] for cosine in inputs["cos"]]),
        torch.tensor([1]),
        torch.tensor([0, 0]),
        torch.tensor([0, 1]),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = InfoNCE()(e, torch.tensor(inputs["tau"])).loss.item()
    assert loss == pytest.approx(expected["exact_margin_loss"], abs=1e-5)
    assert abs(loss - expected["bf16_margin_loss"]) > 0.03
