"""Which pairs each pool holds: by closed form, and never the row itself."""

from __future__ import annotations

import math

import pytest
import torch

from mmembed.losses import pools
from mmembed.losses.embeddings import ContrastiveEmbeddings
from mmembed.losses.info_nce import InfoNCE
from mmembed.losses.mixing import MixedNegatives
from tests.losses.dense_info_nce import make_batch

ROWS, HARD = 4, 3
OF_ROW = {"in_batch": ROWS - 1, "own": HARD, "shared": ROWS * HARD}


def equal_scores() -> ContrastiveEmbeddings:
    """Every vector is zero, so a row's loss is the log of how many compete in it."""
    owner = torch.cat([torch.arange(ROWS), torch.arange(ROWS).repeat_interleave(HARD)])
    return ContrastiveEmbeddings.of_one_process(
        torch.zeros(ROWS, 2), torch.zeros(len(owner), 2),
        torch.arange(ROWS), owner, torch.arange(len(owner)), query_ids=torch.arange(ROWS),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("knobs", "num_negatives"),
    [
        ({"hard_negatives": "none"}, ROWS - 1),
        ({"hard_negatives": "own"}, ROWS - 1 + HARD),
        ({"hard_negatives": "shared"}, ROWS - 1 + ROWS * HARD),
        ({"in_batch": False, "hard_negatives": "own"}, HARD),
        ({"in_batch": False, "hard_negatives": "shared"}, ROWS * HARD),
        ({"in_batch": False, "hard_negatives": "none", "query_query": True}, ROWS - 1),
        ({"hard_negatives": "none", "document_document": "positives"}, 2 * (ROWS - 1)),
        (
            {"hard_negatives": "none", "document_document": "all"},
            (ROWS - 1) + (ROWS - 1) * (1 + HARD),
        ),
        (
            {"hard_negatives": "none", "document_document": "all", "own_documents": True},
            (ROWS - 1) + (ROWS - 1) * (1 + HARD) + HARD,
        ),
        (
            {"hard_negatives": "none", "document_document": "positives", "own_documents": True},
            2 * (ROWS - 1) + HARD,
        ),
        ({"hard_negatives": "none", "mixed_negatives": MixedNegatives((2, 2))}, 2 * ROWS - 1),
        (
            {"hard_negatives": "none", "mixed_negatives": MixedNegatives((2, 2), True)},
            3 * ROWS - 1,
        ),
    ],
)
def test_equal_scores_give_the_log_of_the_number_of_candidates(knobs: dict, num_negatives: int):
    rows = InfoNCE(**knobs).row_losses(equal_scores(), torch.tensor(0.02))
    assert rows.tolist() == [pytest.approx(math.log(1 + num_negatives))] * ROWS


def test_no_pool_holds_the_row_itself_or_its_positive():
    e = make_batch(2)
    own = torch.arange(len(e.documents)) == e.positive[:, None]
    itself = torch.arange(len(e.all_queries)) == e.row[:, None]
    whole = slice(0, len(e.queries)), slice(0, len(e.documents))
    for hard in ("none", "own", "shared"):
        pool = pools.query_document(e, in_batch=True, hard=hard, masks=())
        assert not (pool.candidates(*whole) & own).any()
    for documents in ("positives", "all"):
        for with_own in (True, False):
            pool = pools.document_document(e, documents=documents, own=with_own, masks=())
            assert not (pool.candidates(*whole) & own).any()
    for pool in (pools.query_query(e, masks=()), pools.document_query(e, masks=())):
        candidates = pool.candidates(whole[0], slice(0, len(e.all_queries)))
        assert torch.equal(candidates, ~itself)
