"""log sum exp over the live candidates of each row, without storing the matrix of scores.

    lse_i = log sum_{j live for i} exp(z_ij),    z_ij = s_ij * (1 / tau_i + boost_j),    s = X C^T

X are B rows on the left (queries, or positives), C are m columns on the right. The forward pass
streams over tiles of s and keeps lse; the backward pass computes each tile again: with
p_ij = exp(z_ij - lse_i) and the incoming gradient g_i,

    ds_ij = g_i p_ij (1 / tau_i [+ boost_j]),   dX = ds C,   dC = ds^T X,
    dtau_i = -g_i / tau_i^2 * sum_j p_ij s_ij.

The matrix product is paid once more; memory is one tile beside tensors that are linear in B and m
(the same trade as in Gao et al. 2021 for encoders and Dao et al. 2022 for attention). A problem
that is a single tile keeps it, so a usual batch pays nothing.
A row without a live candidate has lse = -inf and exactly no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Observer", "Rule", "Selection", "masked_logsumexp", "tiles"]

# 4 MiB of float32 scores, and about four such tensors at a time: large enough for the matrix
# product, small enough for a processor's cache (4 times as much was 1.3 times slower).
TILE_ELEMENTS = 2**20
TILE_ROWS = 1024


class Selection(NamedTuple):
    """(r, c) bool each: what may compete, and what is left of it after the masks."""

    candidates: Tensor
    live: Tensor


# (rows, columns, their detached scores (r, c)) -> which of them count.
Rule = Callable[[slice, slice, Tensor], Selection]
# Sees every tile of the forward pass once.
Observer = Callable[[slice, Tensor, Selection], None]


def tiles(num_rows: int, num_columns: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each tile, all columns of some rows before the next rows."""
    height = min(num_rows, TILE_ROWS)
    width = max(1, TILE_ELEMENTS // max(height, 1))
    for row in range(0, num_rows, max(height, 1)):
        for column in range(0, num_columns, width):
            yield (
                slice(row, min(row + height, num_rows)),
                slice(column, min(column + width, num_columns)),
            )


def masked_logsumexp(
    left: Tensor,
    right: Tensor,
    temperature: Tensor,
    rule: Rule,
    *,
    boost: Tensor | float | None = None,
    detach_boost: bool = True,
    observe: Observer | None = None,
    target: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(B,) log sum exp over live columns and (B,) scores of the target columns.

    Gradient reaches `left`, `right` and `temperature`.

    Args:
        left: (B, D). right: (m, D). temperature: (B,). Of one dtype, at least float32.
        rule: says which columns are live. Called again in the backward pass; the same answer.
        boost: (m,), or one for all, added to 1 / tau: column j counts exp(boost_j * s_ij) times.
        detach_boost: no gradient through that weight; the value is the same.
        target: (B,) a column of each row, live or not; None = no such scores, zeros. Their
            gradient rides on the matrix products of the others.
    """
    problem = _Problem(rule, boost, detach_boost, observe, target)
    lse, target_scores = _MaskedLogSumExp.apply(left, right, temperature, problem)
    return lse, target_scores


@dataclass(frozen=True)
class _Problem:
    rule: Rule
    boost: Tensor | float | None
    detach_boost: bool
    observe: Observer | None
    target: Tensor | None

    def logits(self, scores: Tensor, live: Tensor, tau: Tensor, columns: slice) -> Tensor:
        """(r, c); -inf where a column is not live. tau: (r, 1)."""
        boost = self._boost_of(columns)
        logits = scores / tau if boost is None else scores * (1 / tau + boost)
        return logits.masked_fill_(~live, -torch.inf)

    def slope(self, tau: Tensor, columns: slice) -> Tensor:
        """dz / ds as the gradient sees it: (r, 1), or (r, c) where columns differ."""
        boost = None if self.detach_boost else self._boost_of(columns)
        return 1 / tau if boost is None else 1 / tau + boost

    def target_of(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor] | None:
        """(r, 1) place of each row's target in the tile, and whether it is there."""
        if self.target is None:
            return None
        place = self.target[rows, None] - columns.start
        width = columns.stop - columns.start
        return place.clamp(0, width - 1), (place >= 0) & (place < width)

    def _boost_of(self, columns: slice) -> Tensor | float | None:
        return self.boost[columns] if isinstance(self.boost, Tensor) else self.boost


class _MaskedLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, left: Tensor, right: Tensor, temperature: Tensor, problem: _Problem
    ) -> tuple[Tensor, Tensor]:
        lse = left.new_full((len(left),), -torch.inf)
        target_scores = left.new_zeros(len(left))
        kept: tuple[Tensor, ...] = ()
        with torch.autocast(left.device.type, enabled=False):
            for rows, columns in tiles(len(left), len(right)):
                scores = left[rows] @ right[columns].T  # (r, c)
                selection = problem.rule(rows, columns, scores)
                if problem.observe is not None:
                    problem.observe(rows, scores, selection)
                tau = temperature[rows, None]
                logits = problem.logits(scores, selection.live, tau, columns)
                lse[rows] = torch.logaddexp(lse[rows], logits.logsumexp(1))
                if (target := problem.target_of(rows, columns)) is not None:
                    place, inside = target
                    target_scores[rows] += (scores.gather(1, place) * inside)[:, 0]
                if scores.shape == (len(left), len(right)):
                    kept = (scores, selection.live)
        ctx.problem = problem
        ctx.save_for_backward(left, right, temperature, lse, *kept)
        return lse, target_scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, to_target: Tensor) -> tuple[Tensor | None, ...]:
        left, right, temperature, lse, *kept = ctx.saved_tensors
        problem: _Problem = ctx.problem
        needs_left, needs_right, needs_temperature, _ = ctx.needs_input_grad
        # The first tile to reach a row or column writes (beta = 0), the others add.
        new = torch.empty_like if lse.numel() and len(right) else torch.zeros_like
        to_left = new(left) if needs_left else None
        to_right = new(right) if needs_right else None
        to_temperature = torch.zeros_like(temperature) if needs_temperature else None
        lse = lse.masked_fill(lse == -torch.inf, 0)  # such a row has p = exp(-inf) = 0
        with torch.autocast(left.device.type, enabled=False):
            for rows, columns in tiles(len(left), len(right)):
                if kept:
                    scores, live = kept
                else:
                    scores = left[rows] @ right[columns].T
                    live = problem.rule(rows, columns, scores).live
                tau, g = temperature[rows, None], gradient[rows, None]
                p = problem.logits(scores, live, tau, columns).sub_(lse[rows, None]).exp_()
                if to_temperature is not None:
                    mean_score = (p * scores).sum(1)
                    to_temperature[rows] -= gradient[rows] * mean_score / temperature[rows] ** 2
                to_scores = p.mul_(g * problem.slope(tau, columns))
                if (target := problem.target_of(rows, columns)) is not None:
                    place, inside = target
                    to_scores.scatter_add_(1, place, to_target[rows, None] * inside)
                if to_left is not None:
                    to_left[rows].addmm_(to_scores, right[columns], beta=int(columns.start > 0))
                if to_right is not None:
                    to_right[columns].addmm_(to_scores.T, left[rows], beta=int(rows.start > 0))
        return to_left, to_right, to_temperature, None
