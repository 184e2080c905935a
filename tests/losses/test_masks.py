"""What each mask reads, and that it touches nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmembed.losses import tiles
from mmembed.losses.embeddings import ContrastiveEmbeddings
from mmembed.losses.info_nce import InfoNCE
from mmembed.losses.masks import DocumentSimilarityMask, MarginMask
from tests.losses.dense_info_nce import make_batch

TAU = torch.tensor(0.1, dtype=torch.float64)
EVERY_POOL = InfoNCE(query_query=True, document_document="all", duplicate_id=False)


def pair_of_rows(**facts: torch.Tensor) -> ContrastiveEmbeddings:
    """Two rows, no hard negatives; every score between the rows is 0."""
    unit = torch.eye(4, dtype=torch.float64)
    rows = torch.arange(2)
    return ContrastiveEmbeddings.of_one_process(
        unit[:2], unit[2:], rows, rows, facts.pop("ids", torch.tensor([5, 6])), **facts
    )


def num_live(loss: InfoNCE, e: ContrastiveEmbeddings) -> int:
    """Live candidates of row 0 where every score, the positive's included, is 0."""
    return round(loss.row_losses(e, TAU)[0].exp().item() - 1)


@pytest.mark.parametrize(
    ("facts", "change", "live"),
    [
        ({}, {}, 3),
        ({"ids": torch.tensor([5, 5])}, {"duplicate_id": True, "query_query": False}, 0),
        ({"query_ids": torch.tensor([8, 9])}, {"duplicate_id": True}, 3),
        ({"query_ids": torch.tensor([8, 8])}, {"duplicate_id": True}, 2),
        (
            {"query_classes": torch.tensor([1, 1]), "document_classes": torch.tensor([1, 2])},
            {"same_class": True},
            2,
        ),
        (
            {"query_classes": torch.tensor([1, 2]), "document_classes": torch.tensor([1, 1])},
            {"same_class": True},
            1,
        ),
        ({}, {"margin_mask": MarginMask(0.0)}, 3),  # strict: a tie stays
        ({}, {"margin_mask": MarginMask(-0.1)}, 0),
        ({}, {"margin_mask": MarginMask(-0.1, "documents")}, 0),
        ({}, {"margin_mask": MarginMask(-0.1, "none")}, 1),
        ({}, {"similarity_mask": DocumentSimilarityMask(-0.1)}, 1),  # documents, not queries
    ],
)
def test_each_mask_drops_what_it_names(facts: dict, change: dict, live: int):
    assert num_live(replace(EVERY_POOL, **change), pair_of_rows(**facts)) == live


def test_margin_reads_the_score_that_it_is_told_to_between_documents():
    # The other document is like the positive (0.96) and unlike the query (0).
    q = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]], dtype=torch.float64)
    d = torch.tensor([[0.5, 0.75**0.5, 0], [0, 1.0, 0]], dtype=torch.float64)
    rows = torch.arange(2)
    e = ContrastiveEmbeddings.of_one_process(q, d, rows, rows, rows)
    loss = InfoNCE(in_batch=False, hard_negatives="none", document_document="all")
    live = {
        reading: loss_of(replace(loss, margin_mask=MarginMask(0.1, reading)), e) > 0
        for reading in ("query", "documents", "none")
    }
    assert live == {"query": True, "documents": False, "none": True}


def loss_of(loss: InfoNCE, e: ContrastiveEmbeddings) -> float:
    return loss.row_losses(e, TAU)[0].item()


@pytest.mark.parametrize("threshold", [0.3, 0.95])
@pytest.mark.parametrize("limit", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("symmetric", [True, False])
def test_share_that_may_be_masked_is_counted_alike_in_one_tile_and_in_many(
    threshold: float, limit: float, symmetric: bool, monkeypatch: pytest.MonkeyPatch
):
    e = make_batch(3)
    mask = DocumentSimilarityMask(threshold, max_masked_fraction=limit)
    loss = InfoNCE(similarity_mask=mask, symmetric=symmetric)
    whole = loss.row_losses(e, TAU)
    monkeypatch.setattr(tiles, "TILE_ROWS", 2)
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 6)
    torch.testing.assert_close(loss.row_losses(e, TAU), whole)


def test_masks_of_narrow_embeddings_come_from_the_full_ones():
    narrow = make_batch(0, width=6, narrow=2)
    assert narrow.full is not None
    loss = replace(EVERY_POOL, margin_mask=MarginMask(0.0))
    as_narrow = loss(replace(narrow, full=None), TAU).metrics["masked_fraction"]
    as_full = loss(narrow.full, TAU).metrics["masked_fraction"]
    assert loss(narrow, TAU).metrics["masked_fraction"] == as_full != as_narrow


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"query_query": True}, "query_ids"),
        ({"same_class": True}, "query_classes"),
        ({"same_class": True, "query_query": True, "duplicate_id": False}, "query_classes"),
    ],
)
def test_mask_without_the_ids_it_needs_is_refused_by_name(change: dict, missing: str):
    e = replace(make_batch(), **{missing: None})
    with pytest.raises(ValueError, match=rf"needs ContrastiveEmbeddings\.{missing}"):
        InfoNCE(**change)(e, TAU)


def test_class_mask_without_classes_of_documents_is_refused_by_name():
    e = replace(make_batch(), document_classes=None)
    with pytest.raises(ValueError, match=r"same_class needs .*document_classes"):
        InfoNCE(same_class=True)(e, TAU)
