"""What a logged step says about its embeddings, beside the loss; and the alarm of a collapse.

All of it is detached, draws nothing at random, sees the global batch, and is computed on logged
steps only. What needs pairs looks at evenly spaced `SAMPLE_ROWS` of each side, so that its cost has
a bound; batches up to that size are measured exactly. Letters as in `losses.embeddings`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmembed.config.objective import LossConfig
from mmembed.losses.embeddings import ContrastiveEmbeddings, at_least_float32
from mmembed.losses.pools import is_positive
from mmembed.training import distributed

__all__ = ["SAMPLE_ROWS", "CollapseAlarm", "observe"]

logger = logging.getLogger(__name__)

SAMPLE_ROWS = 256
_QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}


@torch.no_grad()
def observe(e: ContrastiveEmbeddings, loss: LossConfig) -> dict[str, Tensor]:
    """0-dim tensors by name; what has no pairs in this batch is left out.

    Names:
        alignment, uniformity: Wang & Isola 2020 (arXiv 2005.10242), exponents 2 and 2: mean squared
            distance of query and positive, and log mean exp(-2 * squared distance) over pairs of
            one side, the mean over queries and distinct documents.
        positive_similarity_q05, _q50, _q95: quantiles of the cosines of positives.
        negative_similarity_q05, _q50, _q95: of those documents that `loss` compares a query with,
            the positive's own content left out, before masks.
        hardness_weight_mean, hardness_weight_max: exp(alpha * cosine) of the negatives that have
            this weight; 1 where hardness is off.
        document_similarity: mean cosine of pairs of distinct documents; 1 is collapse.
        duplicate_fraction: share of the documents whose content another one has already.
    """
    queries = normalize(at_least_float32(e.all_queries.detach()), dim=-1)  # (G, D)
    documents = normalize(at_least_float32(e.documents.detach()), dim=-1)  # (M, D)
    first = _first_of_each(e.ids)
    distinct = documents[first]
    positives = (queries * documents[e.all_positive]).sum(-1)  # (G,)
    found = {
        "alignment": (2 - 2 * positives).mean(),
        "duplicate_fraction": positives.new_tensor(1 - len(first) / len(e.ids)),
        **_quantiles("positive_similarity", positives),
    }
    if len(distinct) > 1:
        count, total = len(distinct), distinct.sum(0)
        found["document_similarity"] = (total @ total - count) / (count * (count - 1))
        if len(queries) > 1:
            found["uniformity"] = (_uniformity(queries) + _uniformity(distinct)) / 2
    return found | _negatives(e, queries, documents, loss)


def _negatives(
    e: ContrastiveEmbeddings, queries: Tensor, documents: Tensor, loss: LossConfig
) -> dict[str, Tensor]:
    rows = _spaced(len(queries), queries.device)
    columns = _spaced(len(documents), documents.device)
    hard = ~is_positive(e)[columns]  # (c,)
    mine = e.owner[columns] == rows[:, None]  # (r, c)
    candidates = (~hard & loss.in_batch) | (hard & _hard_allowed(loss.hard_negatives, mine))
    candidates &= e.ids[columns] != e.ids[e.all_positive[rows]][:, None]
    scores = (queries[rows] @ documents[columns].T)[candidates]  # (n,)
    alpha, scope = loss.hardness.alpha, loss.hardness.scope
    weighted = scores
    if alpha and scope != "all":
        in_scope = hard if scope == "hard" else ~hard
        weighted = scores[in_scope.expand_as(candidates)[candidates]]
    weights = (alpha * weighted).exp() if len(weighted) else scores.new_ones(1)
    return _quantiles("negative_similarity", scores) | {
        "hardness_weight_mean": weights.mean(),
        "hardness_weight_max": weights.max(),
    }


def _hard_allowed(whose: str, mine: Tensor) -> Tensor:
    """(r, c) where a hard negative is compared with the query."""
    return mine if whose == "own" else torch.full_like(mine, whose == "shared")


def _uniformity(points: Tensor) -> Tensor:
    points = points[_spaced(len(points), points.device)]
    count = len(points)
    kernel = (4 * (points @ points.T) - 4).exp().fill_diagonal_(0)  # exp(-2 |x - y|^2)
    return (kernel.sum() / (count * (count - 1))).log()


def _quantiles(name: str, values: Tensor) -> dict[str, Tensor]:
    if not values.numel():
        return {}
    levels = values.new_tensor(list(_QUANTILES.values()))
    found = values.flatten().quantile(levels)
    return {f"{name}_{label}": value for label, value in zip(_QUANTILES, found, strict=True)}


def _spaced(count: int, device: torch.device) -> Tensor:
    """Up to `SAMPLE_ROWS` positions of 0..count - 1, evenly spaced."""
    kept = min(count, SAMPLE_ROWS)
    return torch.arange(kept, device=device) * count // kept


def _first_of_each(ids: Tensor) -> Tensor:
    """Position of the first document of each content."""
    kinds, kind = ids.unique(return_inverse=True)
    first = torch.full_like(kinds, len(ids))
    return first.scatter_reduce(0, kind, torch.arange(len(ids), device=ids.device), "amin")


# Distinct documents of a working model are far apart: mean cosines of 0 to 0.6, seldom 0.8. An
# untrained causal model can start above 0.99, but leaves it within some steps, hence the rows.
COLLAPSED_SIMILARITY = 0.99
COLLAPSED_ROWS = 5


class CollapseAlarm:
    """Says when all documents have become one vector, and warns once.

    Args:
        stage: its name, for the warning.
        from_step: the rule is off before it: a learning rate that is still rising from 0 has not
            had the chance to part an untrained model's documents.
    """

    def __init__(self, stage: str, *, from_step: int = 0) -> None:
        self._stage = stage
        self._from_step = from_step
        self._recent: deque[float] = deque(maxlen=COLLAPSED_ROWS)
        self._has_warned = False

    def __call__(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether the last `COLLAPSED_ROWS` logged rows, this one included, are all collapsed and
        do not recover: the documents are no further apart than at the first of them."""
        if step < self._from_step or "document_similarity" not in metrics:
            return False
        self._recent.append(metrics["document_similarity"])
        collapsed = (
            len(self._recent) == COLLAPSED_ROWS
            and min(self._recent) > COLLAPSED_SIMILARITY
            and 1 - self._recent[-1] < 3 * (1 - self._recent[0]) + 1e-6
        )
        if collapsed and not self._has_warned and distributed.is_main_process():
            self._has_warned = True
            logger.warning(
                "%s, step %d: the embeddings have collapsed. The mean cosine of different "
                "documents is %.4f, above %.2f in %d logged steps. Lower learning_rate or raise "
                "warmup_ratio; raise temperature.init or temperature.min; check that documents "
                "differ within max_document_tokens and that hard negatives are no positives; a "
                "hardness.alpha above 0 or a similarity mask can be switched on later",
                self._stage,
                step,
                self._recent[-1],
                COLLAPSED_SIMILARITY,
                COLLAPSED_ROWS,
            )
        return collapsed
