"""Identities of the contrastive algebra over random knobs and batches; no stored numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmembed.losses.embeddings import ContrastiveEmbeddings
from mmembed.losses.info_nce import Focal, Hardness, InfoNCE
from mmembed.losses.masks import DocumentSimilarityMask, MarginMask
from mmembed.losses.matryoshka import Matryoshka
from mmembed.losses.mixing import MixedNegatives
from tests.losses.dense_info_nce import make_batch, share_of
from tests.losses.test_info_nce_knobs import evaluate, losses

MANY = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SEEDS = st.integers(0, 30)
TAU = torch.tensor(0.1, dtype=torch.float64)
OFF = [
    {"hardness": Hardness(0.0, "hard", False)},
    {"focal": Focal(0.0, "base", True)},
    {"margin_mask": MarginMask(math.inf)},
    {"margin_mask": MarginMask(None, "documents")},
    {"similarity_mask": DocumentSimilarityMask(1.01)},
    {"mixed_negatives": MixedNegatives()},
]


@st.composite
def plain_losses(draw: st.DrawFn) -> InfoNCE:
    """Any pools, without what masks by score, weighs or mixes."""
    plain = InfoNCE()
    off = ("hardness", "focal", "margin_mask", "similarity_mask", "mixed_negatives")
    return replace(draw(losses()), **{name: getattr(plain, name) for name in off})


@MANY
@given(loss=plain_losses(), change=st.sampled_from(OFF), seed=SEEDS, hard=st.integers(0, 2))
def test_knobs_that_are_off_reduce_any_pools_to_the_plain_loss(
    loss: InfoNCE, change: dict, seed: int, hard: int
):
    e = make_batch(seed, hard=hard)
    assert torch.equal(replace(loss, **change).row_losses(e, TAU), loss.row_losses(e, TAU))


@MANY
@given(loss=losses(), seed=SEEDS)
def test_the_full_width_alone_is_the_plain_loss(loss: InfoNCE, seed: int):
    e = make_batch(seed)
    assert torch.equal(Matryoshka(loss, [4], [1.0])(e, TAU).loss, loss(e, TAU).loss)


@MANY
@given(loss=losses(), seed=SEEDS, order=st.randoms(use_true_random=False))
def test_order_of_rows_and_of_columns_changes_neither_loss_nor_gradient(
    loss: InfoNCE, seed: int, order: object
):
    # pairs are drawn row by row, in the order of the rows
    loss = replace(loss, mixed_negatives=MixedNegatives(None, loss.mixed_negatives.list))
    e = make_batch(seed)
    rows, columns = (torch.tensor(shuffled(order, n)) for n in (len(e.queries), len(e.documents)))
    new_row, new_column = rows.argsort(), columns.argsort()

    def in_other_order(e: ContrastiveEmbeddings, tau: Tensor) -> Tensor:
        moved = ContrastiveEmbeddings.of_one_process(
            e.queries[rows],
            e.documents[columns],
            positive=new_column[e.positive[rows]],
            owner=new_row[e.owner[columns]],
            ids=e.ids[columns],
            query_ids=e.query_ids[rows],
            query_classes=e.query_classes[rows],
            document_classes=e.document_classes[columns],
        )
        return loss.row_losses(moved, tau[rows])[new_row]

    for moved, plain in zip(evaluate(e, in_other_order), evaluate(e, loss.row_losses), strict=True):
        torch.testing.assert_close(moved, plain, rtol=1e-9, atol=1e-10)


def shuffled(order: object, count: int) -> list[int]:
    indices = list(range(count))
    order.shuffle(indices)  # type: ignore[attr-defined]
    return indices


# What makes a new document of row `r` a false negative, and the mask that says so.
MASKED = {
    "duplicate_id": {"duplicate_id": True},
    "same_class": {"same_class": True},
    "margin": {"margin_mask": MarginMask(-3.0)},
    "similarity": {"similarity_mask": DocumentSimilarityMask(0.9999)},
}


@MANY
@given(loss=plain_losses(), mask=st.sampled_from(sorted(MASKED)), seed=SEEDS, row=st.integers(0, 4))
def test_a_masked_column_changes_neither_loss_nor_gradient(
    loss: InfoNCE, mask: str, seed: int, row: int
):
    """Of the process that holds the row."""
    loss = replace(loss, hardness=Hardness(9.0), focal=Focal(0.5), **MASKED[mask])
    e = make_batch(seed)
    own = e.positive[row]
    twin = (e.documents[own] if mask == "similarity" else -e.documents[own]).detach()
    new_id = e.ids[own] if mask == "duplicate_id" else torch.tensor(99)
    new_class = e.query_classes[row] if mask == "same_class" else torch.tensor(9)

    def of_row(e: ContrastiveEmbeddings, tau: Tensor) -> Tensor:
        return loss.row_losses(share_of(e, slice(row, row + 1)), tau[row])

    def with_column(e: ContrastiveEmbeddings, tau: Tensor) -> Tensor:
        grown = replace(
            e,
            documents=torch.cat([e.documents, twin[None]]),
            owner=torch.cat([e.owner, torch.tensor([(row + 1) % 5])]),
            ids=torch.cat([e.ids, new_id[None]]),
            document_classes=torch.cat([e.document_classes, new_class[None]]),
        )
        return of_row(grown, tau)

    for grown, plain in zip(evaluate(e, with_column), evaluate(e, of_row), strict=True):
        torch.testing.assert_close(grown, plain, rtol=1e-11, atol=1e-12)


@MANY
@given(loss=losses(), seed=SEEDS, theta=st.floats(math.log(0.05), math.log(0.5)))
def test_gradient_of_theta_is_the_finite_difference(loss: InfoNCE, seed: int, theta: float):
    # a detached weight has no gradient to difference
    focal, hardness = replace(loss.focal, detach=False), replace(loss.hardness, detach=False)
    loss, e = replace(loss, focal=focal, hardness=hardness), make_batch(seed)

    def value(theta: Tensor) -> Tensor:
        return loss(e, theta.exp()).loss

    at = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(at), at)
    step = 1e-5
    difference = (value(at.detach() + step) - value(at.detach() - step)) / (2 * step)
    torch.testing.assert_close(gradient, difference.detach(), rtol=1e-5, atol=1e-7)


@MANY
@given(loss=losses(), seed=SEEDS)
def test_detaching_weights_changes_no_value(loss: InfoNCE, seed: int):
    e = make_batch(seed)
    values = [
        replace(
            loss,
            focal=replace(loss.focal, detach=detach),
            hardness=replace(loss.hardness, detach=detach),
        ).row_losses(e, TAU)
        for detach in (True, False)
    ]
    torch.testing.assert_close(*values, rtol=1e-13, atol=1e-15)


@MANY
@given(seed=SEEDS, margin=st.sampled_from([None, 0.1]), reading=st.sampled_from(["query", "none"]))
def test_five_terms_are_the_two_of_a_later_stage_and_queries_and_documents(
    seed: int, margin: float | None, reading: str
):
    """exp(loss) - 1 is the sum over candidates, and pools are disjoint."""
    e = make_batch(seed)
    five = InfoNCE(
        query_query=True, document_document="all", margin_mask=MarginMask(margin, reading)
    )
    two = replace(five, query_query=False, document_document="none")
    queries = replace(five, in_batch=False, hard_negatives="none", document_document="none")
    documents = replace(five, in_batch=False, hard_negatives="none", query_query=False)
    parts = [loss.row_losses(e, TAU).expm1() for loss in (two, queries, documents)]
    torch.testing.assert_close(sum(parts).log1p(), five.row_losses(e, TAU))
