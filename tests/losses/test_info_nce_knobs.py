"""Every combination of knobs: the tiled loss against the dense one, value and every gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmembed.losses import tiles
from mmembed.losses.embeddings import ContrastiveEmbeddings
from mmembed.losses.info_nce import Focal, Hardness, InfoNCE
from mmembed.losses.masks import DocumentSimilarityMask, MarginMask
from mmembed.losses.mixing import MixedNegatives
from tests.losses.dense_info_nce import dense_rows, make_batch, share_of

ANY = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
booleans = st.booleans()


@st.composite
def losses(draw: st.DrawFn) -> InfoNCE:
    pools = {
        "in_batch": draw(booleans),
        "hard_negatives": draw(st.sampled_from(["none", "own", "shared"])),
        "query_query": draw(booleans),
        "document_document": draw(st.sampled_from(["none", "positives", "all"])),
    }
    if not any(value not in (False, "none") for value in pools.values()):
        pools["in_batch"] = True
    margin = draw(st.sampled_from([None, -0.2, 0.1]))
    delta = draw(st.sampled_from([None, 0.3, 0.95]))
    alpha = draw(st.sampled_from([0.0, 3.0]))
    return InfoNCE(
        **pools,
        own_documents=pools["document_document"] != "none" and draw(booleans),
        mixed_negatives=MixedNegatives(draw(st.sampled_from([None, (2.0, 2.0)])), draw(booleans)),
        duplicate_id=draw(booleans),
        same_class=draw(booleans),
        margin_mask=MarginMask(margin, draw(st.sampled_from(["query", "documents", "none"]))),
        similarity_mask=None
        if delta is None
        else DocumentSimilarityMask(delta, 0, draw(st.sampled_from([None, 0.2, 0.9]))),
        hardness=Hardness(
            alpha, draw(st.sampled_from(["in_batch", "hard", "all"])), draw(booleans)
        ),
        focal=Focal(
            draw(st.sampled_from([0.0, 0.5, 2.0])),
            draw(st.sampled_from(["full", "base"])),
            draw(booleans),
        ),
        symmetric=draw(booleans),
    )


def evaluate(e: ContrastiveEmbeddings, compute: object) -> tuple[Tensor, ...]:
    """Row losses and the gradients of queries, documents and temperatures."""
    tau = torch.linspace(0.05, 0.5, len(e.queries), dtype=torch.float64).requires_grad_()
    rows = compute(e, tau)  # type: ignore[operator]
    inputs = (e.queries, e.documents, tau)
    weights = torch.linspace(1, 2, len(rows), dtype=torch.float64)
    gradients = torch.autograd.grad(rows @ weights, inputs, allow_unused=True)
    return (rows.detach(), *(torch.zeros(()) if g is None else g for g in gradients))


@pytest.mark.parametrize("tile", [(1, 1), (2, 6), (1024, 2**22)], ids=str)
@ANY
@given(loss=losses(), seed=st.integers(0, 3), hard=st.integers(0, 3), narrow=booleans)
def test_any_combination_of_knobs_equals_the_dense_loss(
    tile: tuple[int, int],
    loss: InfoNCE,
    seed: int,
    hard: int,
    narrow: bool,
    monkeypatch: pytest.MonkeyPatch,
):
    e = make_batch(seed, hard=hard, narrow=2 if narrow else None)
    expected = evaluate(e, lambda e, tau: dense_rows(e, loss, tau))
    with monkeypatch.context() as patch:
        patch.setattr(tiles, "TILE_ROWS", tile[0])
        patch.setattr(tiles, "TILE_ELEMENTS", tile[1])
        found = evaluate(e, loss.row_losses)
    for ours, dense in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-8, atol=1e-9)


@ANY
@given(loss=losses(), seed=st.integers(0, 3), cut=st.integers(1, 4))
def test_splitting_the_rows_over_processes_changes_neither_loss_nor_gradient(
    loss: InfoNCE, seed: int, cut: int
):
    e = make_batch(seed)

    def in_parts(e: ContrastiveEmbeddings, tau: Tensor) -> Tensor:
        parts = (slice(0, cut), slice(cut, None))
        return torch.cat([loss.row_losses(share_of(e, part), tau[part]) for part in parts])

    for split, whole in zip(evaluate(e, in_parts), evaluate(e, loss.row_losses), strict=True):
        torch.testing.assert_close(split, whole, rtol=1e-9, atol=1e-10)


@ANY
@given(loss=losses(), seed=st.integers(0, 3))
def test_loss_is_the_mean_of_its_rows_and_metrics_have_no_gradient(loss: InfoNCE, seed: int):
    e, tau = make_batch(seed), torch.tensor(0.2, dtype=torch.float64)
    output = loss(e, tau)
    torch.testing.assert_close(output.loss, loss.row_losses(e, tau).mean())
    assert not any(value.requires_grad or value.ndim for value in output.metrics.values())
    assert 0 <= output.metrics["masked_fraction"] <= 1


@pytest.mark.parametrize("tile", [(1, 1), (2, 6)], ids=str)
def test_metrics_do_not_depend_on_the_tiles(tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    e, tau = make_batch(1), torch.tensor(0.2, dtype=torch.float64)
    loss = InfoNCE(query_query=True, document_document="all", margin_mask=MarginMask(0.1))
    whole = loss(e, tau).metrics
    monkeypatch.setattr(tiles, "TILE_ROWS", tile[0])
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", tile[1])
    for name, value in loss(e, tau).metrics.items():
        torch.testing.assert_close(value, whole[name])
    assert 0 < whole["masked_fraction"] < 1
