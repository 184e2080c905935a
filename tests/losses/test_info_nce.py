"""InfoNCE against a loop written from the formula, its closed form, and its invariances."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmembed.losses.embeddings import ContrastiveEmbeddings
from mmembed.losses.info_nce import Focal, Hardness, InfoNCE
from mmembed.losses.masks import DocumentSimilarityMask
from tests.losses.dense_info_nce import make_batch

NEUTRAL = InfoNCE(hard_negatives="none", duplicate_id=False)


def random_batch(seed: int = 0, *, rows: int = 6, hard: int = 2) -> ContrastiveEmbeddings:
    """Positives first; documents 1 and 4 alike; rows 0 and 3, and 2 and the last, share an id."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    documents = torch.randn(rows * (1 + hard), 5, generator=generator, dtype=torch.float64)
    documents[4] = documents[1] + 0.01
    ids = torch.arange(len(documents))
    ids[3] = ids[0]
    ids[-1] = ids[2]
    owner = torch.cat([torch.arange(rows), torch.arange(rows).repeat_interleave(hard)])
    unit = torch.nn.functional.normalize
    return ContrastiveEmbeddings.of_one_process(
        unit(queries).requires_grad_(), unit(documents).requires_grad_(),
        torch.arange(rows), owner, ids,
    )  # fmt: skip


def loop(e: ContrastiveEmbeddings, loss: InfoNCE, tau: Tensor) -> Tensor:
    """The formula of the module docstring, one scalar at a time."""
    positives = set(e.all_positive.tolist())
    delta = 9.0 if loss.similarity_mask is None else loss.similarity_mask.threshold
    total = torch.zeros((), dtype=torch.float64)
    for i, own in enumerate(e.positive.tolist()):
        terms = [e.queries[i] @ e.documents[own] / tau[i]]
        for c in range(len(e.documents)):
            mine = e.owner[c] == e.row[i]
            hard_allowed = {"none": False, "own": mine, "shared": True}[loss.hard_negatives]
            allowed = loss.in_batch if c in positives else hard_allowed
            same = loss.duplicate_id and e.ids[c] == e.ids[own]
            near = (e.documents[c] @ e.documents[own]).item() > delta
            if c == own or not allowed or same or near:
                continue
            s = e.queries[i] @ e.documents[c]
            kind = "in_batch" if c in positives else "hard"
            alpha = loss.hardness.alpha if loss.hardness.scope in (kind, "all") else 0.0
            weight = s.detach() if loss.hardness.detach else s
            terms.append(s / tau[i] + alpha * weight)
        total = total + torch.stack(terms).logsumexp(0) - terms[0]
    return total / len(e.queries)


VARIANTS = [
    InfoNCE(
        in_batch=in_batch,
        hard_negatives=hard,
        duplicate_id=duplicate,
        similarity_mask=None if delta is None else DocumentSimilarityMask(delta),
        hardness=hardness,
    )
    for in_batch, hard, duplicate, delta, hardness in itertools.product(
        [True, False],
        ["none", "own", "shared"],
        [True, False],
        [None, 0.95],
        [Hardness(), Hardness(3.0), Hardness(3.0, "hard", False), Hardness(3.0, "in_batch")],
    )
    if in_batch or hard != "none"
]


@pytest.mark.parametrize("loss", VARIANTS, ids=str)
def test_loss_equals_the_loop_in_value_and_every_gradient(loss: InfoNCE):
    results = []
    for compute in (lambda e, t: loss(e, t).loss, lambda e, t: loop(e, loss, t)):
        e = random_batch()
        tau = torch.linspace(0.05, 0.5, 6, dtype=torch.float64).requires_grad_()
        value = compute(e, tau)
        value.backward()
        results.append((value.detach(), e.queries.grad, e.documents.grad, tau.grad))
    for dense, slow in zip(*results, strict=True):
        torch.testing.assert_close(dense, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("num_hard", [0, 1, 3])
def test_orthogonal_embeddings_give_the_log_of_the_number_of_candidates(num_hard: int):
    rows = 4
    count = rows * (1 + num_hard)
    e = ContrastiveEmbeddings.of_one_process(
        torch.zeros(rows, 3),
        torch.zeros(count, 3),
        torch.arange(rows),
        torch.cat([torch.arange(rows), torch.arange(rows).repeat_interleave(num_hard)]),
        torch.arange(count),
    )
    value = InfoNCE(hard_negatives="shared")(e, torch.tensor(0.02)).loss.item()
    assert value == pytest.approx(math.log(rows * (1 + num_hard)))


@pytest.mark.parametrize(
    "change",
    [
        {"hardness": Hardness(0.0, "hard", False)},
        {"similarity_mask": DocumentSimilarityMask(1.01)},
        {"similarity_mask": DocumentSimilarityMask(0.0, max_masked_fraction=0.0)},
        {"duplicate_id": True},
        {"hard_negatives": "own"},
        {"hard_negatives": "shared"},
    ],
    ids=str,
)
def test_neutral_knobs_change_nothing(change: dict):
    e = random_batch(hard=0)
    e = replace(e, ids=torch.arange(len(e.documents)))
    tau = torch.tensor(0.1, dtype=torch.float64)
    assert replace(NEUTRAL, **change)(e, tau).loss == NEUTRAL(e, tau).loss


def test_similarity_mask_waits_for_its_step():
    loss = replace(NEUTRAL, similarity_mask=DocumentSimilarityMask(0.95, from_step=10))
    assert loss.at_step(9) == NEUTRAL
    assert loss.at_step(10) == loss


def test_similarity_mask_is_left_off_when_it_would_drop_too_much():
    e, tau = random_batch(), torch.tensor(0.1, dtype=torch.float64)
    wide = replace(NEUTRAL, similarity_mask=DocumentSimilarityMask(-1.1))
    assert wide(e, tau).metrics["masked_fraction"] == 1.0
    limited = replace(
        NEUTRAL, similarity_mask=DocumentSimilarityMask(-1.1, max_masked_fraction=0.9)
    )
    assert limited(e, tau).loss == NEUTRAL(e, tau).loss
    # One pair (documents 1 and 4) of the 6 x 17 is above 0.95, in both directions.
    exact = DocumentSimilarityMask(0.95, max_masked_fraction=2 / (6 * 17) + 1e-6)
    below = DocumentSimilarityMask(0.95, max_masked_fraction=2 / (6 * 17) - 1e-6)
    assert replace(NEUTRAL, similarity_mask=exact)(e, tau).metrics["masked_fraction"] > 0
    assert replace(NEUTRAL, similarity_mask=below)(e, tau).metrics["masked_fraction"] == 0


def test_mean_over_parts_of_the_rows_is_the_loss_of_the_whole_batch():
    loss = InfoNCE(
        similarity_mask=DocumentSimilarityMask(0.5, max_masked_fraction=0.5),
        hardness=Hardness(9.0),
        symmetric=True,
    )
    e, tau = random_batch(), torch.linspace(0.05, 0.5, 6, dtype=torch.float64)
    parts = [
        loss(
            replace(e, queries=e.queries[part], row=e.row[part], positive=e.positive[part]),
            tau[part],
        ).loss
        for part in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close((parts[0] + parts[1]) / 2, loss(e, tau).loss)


def test_collapsed_embeddings_have_no_accuracy():
    same = torch.ones(4, 1)
    e = ContrastiveEmbeddings.of_one_process(
        same, same, torch.arange(4), torch.arange(4), torch.arange(4)
    )
    metrics = InfoNCE()(e, torch.tensor(0.1)).metrics
    assert metrics["accuracy"] == 0
    assert metrics["positive_rank"] == 4


def test_metrics_tell_similarity_of_positives_and_negatives_apart():
    e = ContrastiveEmbeddings.of_one_process(
        torch.eye(3), torch.eye(3), torch.arange(3), torch.arange(3), torch.arange(3)
    )
    metrics = InfoNCE()(e, torch.tensor(0.1)).metrics
    assert metrics["accuracy"] == 1
    assert metrics["positive_similarity"] == 1
    assert metrics["negative_similarity"] == 0
    assert metrics["masked_fraction"] == 0


def test_loss_without_any_negatives_is_refused():
    with pytest.raises(ValueError, match="has no negatives"):
        InfoNCE(in_batch=False, hard_negatives="none")


@pytest.mark.parametrize("knob", ["hardness", "focal"])
def test_detached_weights_change_the_gradient_and_not_the_value(knob: str):
    found = []
    for detach in (True, False):
        e, tau = make_batch(), torch.tensor(0.1, dtype=torch.float64)
        weight = {"hardness": Hardness(2.0, detach=detach), "focal": Focal(0.5, detach=detach)}
        loss = InfoNCE(query_query=True, **{knob: weight[knob]})(e, tau).loss
        found.append((loss.detach(), torch.autograd.grad(loss, e.documents)[0]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-14, atol=0)
    assert not torch.allclose(found[0][1], found[1][1])


def test_row_with_every_candidate_of_every_pool_masked_has_exactly_no_loss_and_no_gradient():
    e = make_batch()
    e = replace(
        e,
        query_classes=torch.zeros_like(e.query_classes),
        document_classes=torch.zeros_like(e.document_classes),
    )
    tau = torch.full((5,), 0.01, dtype=torch.float64, requires_grad=True)
    loss = InfoNCE(
        query_query=True, document_document="all", same_class=True, symmetric=True,
        hardness=Hardness(9.0, detach=False), focal=Focal(0.5),
    )  # fmt: skip
    output = loss(e, tau)
    output.loss.backward()
    assert output.loss.item() == 0
    assert output.metrics["masked_fraction"] == 1
    for tensor in (e.queries, e.documents, tau):
        assert (tensor.grad == 0).all()


def test_tiny_and_huge_losses_keep_their_digits_in_float32():
    unit = torch.tensor([[1.0, 0.0]])
    for cosine, tau in ((-0.2, 0.1), (0.9999, 0.01), (-1.0, 0.005)):
        documents = torch.tensor([[1.0, 0.0], [cosine, 0.0]])
        e = ContrastiveEmbeddings.of_one_process(
            unit, documents, torch.tensor([0]), torch.tensor([0, 0]), torch.arange(2)
        )
        exact = math.log1p(math.exp((documents[1, 0].item() - 1) / tau))
        assert InfoNCE()(e, torch.tensor(tau)).loss.item() == pytest.approx(exact, rel=1e-4)
        swapped = replace(e, positive=torch.tensor([1]), all_positive=torch.tensor([1]))
        exact = (1 - cosine) / tau + exact
        assert InfoNCE()(swapped, torch.tensor(tau)).loss.item() == pytest.approx(exact, rel=1e-5)


def test_own_documents_without_their_pool_are_refused():
    with pytest.raises(ValueError, match="own_documents has no effect"):
        InfoNCE(own_documents=True)


@pytest.mark.parametrize("gamma", [-1.0, math.nan])
def test_focal_strength_below_zero_is_refused(gamma: float):
    with pytest.raises(ValueError, match="allowed: 0"):
        Focal(gamma)
