"""The tiled log sum exp against the dense one, in value and every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmembed.losses import tiles
from mmembed.losses.tiles import Selection, masked_logsumexp

NUM_ROWS, NUM_COLUMNS, WIDTH = 5, 7, 3


def case(live_share: float = 0.7) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(NUM_ROWS, WIDTH, generator=generator, dtype=torch.float64)
    right = torch.randn(NUM_COLUMNS, WIDTH, generator=generator, dtype=torch.float64)
    tau = 0.1 + torch.rand(NUM_ROWS, generator=generator, dtype=torch.float64)
    live = torch.rand(NUM_ROWS, NUM_COLUMNS, generator=generator) < live_share
    boost = torch.rand(NUM_COLUMNS, generator=generator, dtype=torch.float64)
    return left.requires_grad_(), right.requires_grad_(), tau.requires_grad_(), live, boost


def rule_of(live: Tensor) -> tiles.Rule:
    return lambda rows, columns, _scores: Selection(live[rows, columns], live[rows, columns])


@pytest.fixture(params=[(1, 1), (2, 6), (3, 9), (5, 15), (8, 1000)], ids=str)
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    monkeypatch.setattr(tiles, "TILE_ROWS", request.param[0])
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", request.param[1])
    return request.param


@pytest.mark.parametrize("boost", ["none", "one", "columns"])
@pytest.mark.parametrize("detach", [True, False])
def test_every_tile_size_gives_the_dense_value_and_gradients(
    tile: tuple[int, int], boost: str, detach: bool
):
    results = []
    for tiled in (True, False):
        left, right, tau, live, weights = case()
        given = {"none": None, "one": 0.7, "columns": weights}[boost]
        target = torch.tensor([6, 0, 3, 2, 5])
        if tiled:
            lse, own = masked_logsumexp(
                left, right, tau, rule_of(live), boost=given, detach_boost=detach, target=target
            )
        else:
            scores = left @ right.T
            logits = scores / tau[:, None]
            if given is not None:
                logits = logits + given * (scores.detach() if detach else scores)
            lse = logits.masked_fill(~live, -torch.inf).logsumexp(1)
            own = scores.gather(1, target[:, None])[:, 0]
        upstream = torch.linspace(-1, 2, NUM_ROWS, dtype=torch.float64)
        (lse @ upstream + own @ upstream.flip(0)).backward()
        results.append((lse.detach(), own.detach(), left.grad, right.grad, tau.grad))
    for ours, dense in zip(*results, strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-12, atol=1e-12)


def test_gradients_pass_the_finite_difference_check(tile: tuple[int, int]):
    left, right, tau, live, weights = case()
    live[:, 0] = True  # every row has a candidate; without one lse is -inf

    def compute(left: Tensor, right: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        return masked_logsumexp(
            left, right, tau, rule_of(live), boost=weights, detach_boost=False,
            target=torch.arange(NUM_ROWS),
        )  # fmt: skip

    assert torch.autograd.gradcheck(compute, (left, right, tau))


def test_row_without_a_candidate_is_minus_infinity_and_has_exactly_no_gradient(
    tile: tuple[int, int],
):
    left, right, tau, live, _ = case()
    live[2] = False
    lse, _ = masked_logsumexp(left, right, tau, rule_of(live))
    assert lse[2] == -torch.inf
    assert lse[[0, 1, 3, 4]].isfinite().all()
    torch.log1p(lse.exp()).sum().backward()
    assert (left.grad[2] == 0).all()
    assert tau.grad[2] == 0
    assert right.grad.isfinite().all()


def test_nothing_on_one_side_gives_minus_infinity_and_zero_gradients():
    for rows, columns in ((NUM_ROWS, 0), (0, NUM_COLUMNS)):
        left, right, tau, live, _ = case()
        lse, _ = masked_logsumexp(
            left[:rows], right[:columns], tau[:rows], rule_of(live[:rows, :columns])
        )
        assert (lse == -torch.inf).all()
        lse.exp().sum().backward()
        assert (left.grad == 0).all() and (right.grad == 0).all()


@pytest.mark.parametrize("tile_elements", [4, 10_000])
def test_autocast_reaches_neither_pass(tile_elements: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", tile_elements)
    found = []
    for enabled in (True, False):
        left, right, tau, live, _ = case()
        left, right, tau = (x.detach().float().requires_grad_() for x in (left, right, tau))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            masked_logsumexp(left, right, tau, rule_of(live))[0].sum().backward()
        found.append((left.grad, right.grad, tau.grad))
    for inside, outside in zip(*found, strict=True):
        assert torch.equal(inside, outside)


def test_tensors_kept_for_the_backward_pass_are_linear_in_rows_and_columns(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(tiles, "TILE_ROWS", 8)
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 64)
    kept: dict[int, int] = {}
    for size in (100, 200):
        left = torch.randn(size, 2, requires_grad=True)
        right = torch.randn(size, 2, requires_grad=True)
        saved: list[int] = []

        def note(x: Tensor, saved: list[int] = saved) -> Tensor:
            saved.append(x.numel())
            return x

        every = torch.ones(size, size, dtype=torch.bool)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            masked_logsumexp(left, right, torch.ones(size), rule_of(every))
        kept[size] = sum(saved)
    assert kept[200] == 2 * kept[100]


def test_tiles_cover_every_pair_once(tile: tuple[int, int]):
    seen = torch.zeros(11, 13, dtype=torch.int64)
    for rows, columns in tiles.tiles(11, 13):
        seen[rows, columns] += 1
        assert (rows.stop - rows.start) * (columns.stop - columns.start) <= max(tile[1], tile[0])
    assert (seen == 1).all()
