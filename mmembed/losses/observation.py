"""What training logs about the candidates, counted in the same pass as the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from mmembed.losses.embeddings import ContrastiveEmbeddings
from mmembed.losses.tiles import Selection

__all__ = ["Observation"]


class Observation:
    """Counts over the tiles of one batch."""

    def __init__(self, e: ContrastiveEmbeddings) -> None:
        positives = e.documents.detach()[e.positive]
        self._positive = positive = (e.queries.detach() * positives).sum(-1)  # (B,)
        # A duplicate of the positive has its score up to the rounding of another summation order.
        self._limit = positive - 8 * torch.finfo(positive.dtype).eps
        self._rank = torch.zeros_like(positive)  # live documents at or above the positive
        zero = torch.zeros((), dtype=torch.int64, device=positive.device)
        self._num_candidates = self._num_live = self._num_documents = zero
        self._sum_similarity = positive.new_zeros(())

    def see(self, _rows: slice, _scores: Tensor, selection: Selection) -> None:
        """Candidates of any kind."""
        self._num_candidates = self._num_candidates + selection.candidates.count_nonzero()
        self._num_live = self._num_live + selection.live.count_nonzero()

    def see_documents(self, rows: slice, scores: Tensor, selection: Selection) -> None:
        """Documents as candidates of queries: these are ranked against the positive."""
        self.see(rows, scores, selection)
        live = selection.live
        self._rank[rows] += (live & (scores >= self._limit[rows, None])).sum(1)
        self._num_documents = self._num_documents + live.count_nonzero()
        self._sum_similarity += scores.where(live, 0).sum()

    def metrics(self) -> dict[str, Tensor]:
        dropped = self._num_candidates - self._num_live
        return {
            "masked_fraction": dropped / self._num_candidates.clamp_min(1),
            "accuracy": (self._rank == 0).to(self._rank.dtype).mean(),
            # Ties count against the positive: a collapsed model must not look perfect.
            "positive_rank": 1 + self._rank.mean(),
            "positive_similarity": self._positive.mean(),
            "negative_similarity": self._sum_similarity / self._num_documents.clamp_min(1),
        }
