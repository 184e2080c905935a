"""The public loss API against numbers computed elsewhere (fp64 loops, tests/golden/losses.json)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmembed.losses.embeddings import ContrastiveEmbeddings
from mmembed.losses.info_nce import Hardness, InfoNCE
from mmembed.losses.masks import DocumentSimilarityMask

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())
CASES = {case["id"]: case for case in GOLDEN["tests"]}
PLAIN = InfoNCE(hard_negatives="none", duplicate_id=False)


def fixture_a(dtype: torch.dtype = torch.float64) -> ContrastiveEmbeddings:
    fixture = GOLDEN["fixture_A"]
    queries = torch.tensor(fixture["Q"], dtype=dtype)
    hard = torch.tensor(fixture["H"], dtype=dtype)
    names = fixture["pos_id"] + [name for row in fixture["neg_id"] for name in row]
    return ContrastiveEmbeddings.of_one_process(
        queries,
        torch.cat([torch.tensor(fixture["P"], dtype=dtype), hard.flatten(0, 1)]),
        positive=torch.arange(3),
        owner=torch.tensor([0, 1, 2, 0, 0, 1, 1, 2, 2]),
        ids=torch.tensor([ord(name) for name in names]),
    )


def single_row(e: ContrastiveEmbeddings, index: int) -> ContrastiveEmbeddings:
    """The same global batch, seen by a process that owns one query."""
    rows = slice(index, index + 1)
    return ContrastiveEmbeddings(
        queries=e.queries[rows],
        all_queries=e.all_queries,
        documents=e.documents,
        row=e.row[rows],
        positive=e.positive[rows],
        all_positive=e.all_positive,
        owner=e.owner,
        ids=e.ids,
    )


def rzen(case: dict, *, detach: bool = True) -> InfoNCE:
    delta = case["inputs"].get("delta")
    return InfoNCE(
        hard_negatives="none",
        duplicate_id=False,
        similarity_mask=None if delta is None else DocumentSimilarityMask(delta),
        hardness=Hardness(case["inputs"]["alpha"], detach=detach),
    )


LOSSES = {
    "infonce_inbatch": PLAIN,
    "infonce_symmetric": InfoNCE(hard_negatives="none", duplicate_id=False, symmetric=True),
    "infonce_hard_own": InfoNCE(hard_negatives="own", duplicate_id=False),
    "infonce_shared_idmask": InfoNCE(),
    "kalm_Z_eq3": InfoNCE(duplicate_id=False),
    "q3vl_classification": InfoNCE(in_batch=False, hard_negatives="own", duplicate_id=False),
    "rzen_full_pool": InfoNCE(similarity_mask=DocumentSimilarityMask(0.95), hardness=Hardness(9.0)),
    **{name: rzen(CASES[name]) for name in CASES if name.startswith("rzen_tau")},
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_every_row_equal_the_golden_number(name: str, dtype: torch.dtype):
    expected, tau = CASES[name]["expected"], CASES[name]["inputs"]["tau"]
    e, tau = fixture_a(dtype), torch.tensor(tau, dtype=dtype)
    tolerance = {"abs": 2e-9 if dtype == torch.float64 else 2e-5}
    loss = LOSSES[name](e, tau).loss
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(expected["mean"], **tolerance)
    for index, value in enumerate(expected.get("per_row", [])):
        row = LOSSES[name](single_row(e, index), tau).loss
        if name != "infonce_symmetric":
            assert row.item() == pytest.approx(value, **tolerance)


@pytest.mark.parametrize("detach", [True, False], ids=["detached", "not_detached"])
@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("rzen_tau")])
def test_gradient_of_scores_and_theta_equals_the_golden_gradient(name: str, detach: bool):
    case = CASES[name]
    e = fixture_a()
    # With orthonormal "queries" S @ D^-1 the scores are free variables: s = q @ d.T.
    documents = torch.eye(3, dtype=torch.float64)
    scores = (e.queries @ e.documents[:3].T).requires_grad_()
    theta = torch.tensor(math.log(case["inputs"]["tau"]), dtype=torch.float64, requires_grad=True)
    free = ContrastiveEmbeddings.of_one_process(
        scores, documents, torch.arange(3), torch.arange(3), torch.arange(3)
    )
    loss = rzen(case, detach=detach)
    if loss.similarity_mask is not None:
        loss = InfoNCE(
            hard_negatives="none",
            duplicate_id=False,
            hardness=loss.hardness,
            similarity_mask=_MaskOf(e, loss.similarity_mask),
        )
    output = loss(free, theta.exp())
    assert output.loss.item() == pytest.approx(case["expected"]["mean"], abs=2e-9)
    output.loss.backward()
    key = "dL_dS_detached" if detach else "dL_dS_not_detached"
    expected = torch.tensor(case["expected"][key], dtype=torch.float64)
    torch.testing.assert_close(scores.grad, expected, rtol=0, atol=2e-9)
    expected_theta = case["expected"]["dL_dtheta(tau=exp(theta))"]
    assert theta.grad.item() == pytest.approx(expected_theta, abs=2e-9)


class _MaskOf(DocumentSimilarityMask):
    """The mask of fixture A's documents, for a batch whose scores are free variables."""

    def __init__(self, e: ContrastiveEmbeddings, mask: DocumentSimilarityMask) -> None:
        super().__init__(mask.threshold)
        object.__setattr__(self, "dropped", mask(e)[:, :3])

    def __call__(self, e: ContrastiveEmbeddings) -> Tensor:
        return self.dropped


def test_wrong_variants_of_the_weighted_loss_do_not_match():
    wrong = CASES["rzen_WRONG_variants"]["expected"]
    value = LOSSES["rzen_tau0.1_alpha1_nofn"](fixture_a(), torch.tensor(0.1)).loss.item()
    for number in wrong.values():
        assert abs(value - number) > 0.1


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
    case = CASES["low_precision_logits"]
    # Cosines .99 (positive) and .994 (negative): exact in the documents, queries are unit axes.
    first, second = case["inputs"]["cos"]
    queries = torch.tensor([[1.0, 0.0]])
    documents = torch.tensor([[first, 0.0], [second, 0.0]])
    e = ContrastiveEmbeddings.of_one_process(
        queries, documents, torch.tensor([0]), torch.tensor([0, 0]), torch.tensor([0, 1])
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = InfoNCE()(e, torch.tensor(case["inputs"]["tau"])).loss.item()
    exact = math.log1p(math.exp((second - first) / case["inputs"]["tau"]))
    assert loss == pytest.approx(exact, abs=1e-4)
    rounded = math.log1p(math.exp(0.5))
    assert abs(loss - rounded) > 0.03
