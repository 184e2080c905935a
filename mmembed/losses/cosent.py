"""CoSENT: the pairs of a batch must be ordered like their graded similarities.

    loss = log(1 + sum over pairs i, j with y_i > y_j of exp((s_j - s_i) / tau))

s are the cosines of (query, positive), y their labels. Ties contribute nothing; without an ordered
pair the loss and its gradient are 0. The published form (https://kexue.fm/archives/8847) stores
all n x n differences. Here the sum is taken label by label,

    sum_i exp(-s_i / tau) * sum over {j: y_j < y_i} of exp(s_j / tau),

whose inner sums are running sums over pairs sorted by label: O(n log n), exact, and in the log
domain throughout, so that nothing overflows.

The loss is one scalar of the global batch and no mean over rows: its pairs are pairs of rows. So
every process computes all of it, from the gathered tensors only (`all_queries`, `documents`). A
gather's backward sums over processes, row shares sum to the number of processes, and averaging
over processes then gives the value and gradient of one process. Letters: G all queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmembed.losses.embeddings import ContrastiveEmbeddings, LossOutput, at_least_float32
from mmembed.losses.validation import check_finite, row_temperatures

__all__ = ["CoSENT"]


@dataclass(frozen=True)
class CoSENT:
    """The order of the cosines of (query, positive) against `scores` of the positives.

    Metrics: `ordered_pairs` counts y_i > y_j; `spearman` is the rank correlation of cosines and
    labels, 0 where one of them is constant; `positive_similarity` is the mean cosine.

    Raises:
        NonFiniteEmbeddings: NaN or infinity in queries or documents.
        ValueError: a positive has no score, rows differ in temperature, or it is not above 0.
    """

    def __call__(self, e: ContrastiveEmbeddings, temperature: Tensor) -> LossOutput:
        labels = _labels(e)
        check_finite(e)
        with torch.autocast(e.documents.device.type, enabled=False):
            queries = at_least_float32(e.all_queries)
            positives = at_least_float32(e.documents[e.all_positive])
            cosines = (queries * positives).sum(-1)  # (G,)
            loss, ordered_pairs = _log_of_inversions(
                cosines / _one_temperature(row_temperatures(temperature, e)), labels
            )
            with torch.no_grad():
                metrics = {
                    "ordered_pairs": ordered_pairs,
                    "spearman": _spearman(cosines, labels),
                    "positive_similarity": cosines.mean(),
                }
        return LossOutput(loss, metrics)


def _log_of_inversions(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log(1 + sum over y_i > y_j of exp(logit_j - logit_i)) and the number of such pairs."""
    labels, order = labels.sort()
    logits = logits[order]
    num_lower = torch.searchsorted(labels, labels)  # (G,) pairs with a lower label than this one
    upper = num_lower > 0
    lower_sum = logits.logcumsumexp(0)[num_lower[upper] - 1]
    terms = lower_sum - logits[upper]
    return torch.cat([terms.new_zeros(1), terms]).logsumexp(0), num_lower.sum()


def _labels(e: ContrastiveEmbeddings) -> Tensor:
    """(G,) the scores of the positives."""
    if e.scores is None:
        raise ValueError(
            "CoSENT: the batch has no scores; it needs the graded similarity of every query with "
            "its positive. Give the examples `scores`, or choose another objective for this task."
        )
    labels = e.scores[e.all_positive]
    missing = labels.isnan().nonzero().flatten().tolist()
    if missing:
        raise ValueError(
            f"CoSENT: row {missing[0]} of the global batch has no score (NaN) for its positive, "
            f"{len(missing)} of {len(labels)} rows in all; each pair needs a graded similarity. "
            "Give the examples `scores`, or choose another objective for this task."
        )
    return labels


def _one_temperature(temperature: Tensor) -> Tensor:
    """The temperature that all rows share: a pair of rows cannot have two."""
    lowest, highest = (bound.item() for bound in temperature.detach().aminmax())
    if lowest != highest:
        raise ValueError(
            f"CoSENT: rows have temperatures from {lowest:g} to {highest:g}; it compares rows with "
            "each other and needs one for all. Make batches of one task."
        )
    return temperature[0]


def _spearman(first: Tensor, second: Tensor) -> Tensor:
    centred = []
    for values in (first, second):
        ordered = values.contiguous().sort().values
        below, upto = (torch.searchsorted(ordered, values, right=side) for side in (False, True))
        ranks = (below + upto).to(first.dtype)  # twice the mean rank of ties
        centred.append(ranks - ranks.mean())
    covariance = (centred[0] * centred[1]).sum()
    scale = centred[0].norm() * centred[1].norm()
    return torch.where(scale > 0, covariance / scale, 0.0)
