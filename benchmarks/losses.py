"""The suite loss: contrastive losses on given embeddings, one forward and backward pass.

N queries against N documents; all sides compute the same InfoNCE.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from benchmarks.measurement import Case, Side, Start
from benchmarks.settings import Settings

__all__ = ["loss_cases", "loss_side"]

TAU = 0.02
# (queries, documents) as leaves; leaves the gradients on them and returns the loss.
Step = Callable[[Tensor, Tensor], float]


def _ours(queries: Tensor, documents: Tensor) -> float:
    from mmembed.losses.embeddings import ContrastiveEmbeddings
    from mmembed.losses.info_nce import InfoNCE

    rows = torch.arange(len(queries))
    e = ContrastiveEmbeddings.of_one_process(queries, documents, rows, rows, rows)
    loss = InfoNCE()(e, torch.tensor(TAU)).loss
    loss.backward()
    return loss.item()


def _dense(queries: Tensor, documents: Tensor) -> float:
    """The textbook's two lines."""
    loss = cross_entropy(queries @ documents.T / TAU, torch.arange(len(queries)))
    loss.backward()
    return loss.item()


def _sentence_transformers(queries: Tensor, documents: Tensor) -> float:
    """The loss part of GradCache there: rows in chunks of 1,024, the backward pass in between."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
    from sentence_transformers.util import dot_score

    loss = CachedMultipleNegativesRankingLoss(
        torch.nn.Sequential(torch.nn.Identity()),
        scale=1 / TAU,
        similarity_fct=dot_score,
        mini_batch_size=1024,
    )
    return float(loss.calculate_loss([[queries], [documents]], with_backward=True))


_STEPS: dict[str, Step] = {
    "mmembed": _ours,
    "dense": _dense,
    "sentence-transformers": _sentence_transformers,
}


def loss_cases(settings: Settings, scratch: Path) -> Iterator[Case]:
    """Every side at every size; dense only where its matrices fit."""
    for size in settings.sizes or (4096, 8192, 16384):
        # Scores, logits, probabilities and their gradient, and as much again for the machine.
        fits = 8 * 4 * size**2 < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        names = ["mmembed", *(peer for peer in settings.peers if fits or peer != "dense")]
        sides = {
            name: Start(
                "benchmarks.losses:loss_side",
                {"name": name, "size": size, "width": settings.width},
            )
            for name in names
        }
        name = f"N = {size:,}, {settings.width:,} dimensions"
        yield Case(name, sides, size, "rows", fresh=True)


def loss_side(*, name: str, size: int, width: int) -> Side:
    step = _STEPS[name]
    queries, documents = _leaves(size, width)

    def facts(loss: float) -> dict[str, float]:
        assert queries.grad is not None
        assert documents.grad is not None
        return {
            "loss": loss,
            "query_gradient": queries.grad.norm().item(),
            "document_gradient": documents.grad.norm().item(),
        }

    return Side(lambda: step(queries, documents), lambda: step(*_leaves(256, width)), facts)


def _leaves(size: int, width: int) -> tuple[Tensor, Tensor]:
    """Documents near their queries, as after some training."""
    generator = torch.Generator().manual_seed(0)
    queries = normalize(torch.randn(size, width, generator=generator), dim=1)
    documents = torch.randn(size, width, generator=generator).mul_(6 * width**-0.5)
    documents = normalize(documents.add_(queries), dim=1)
    return queries.requires_grad_(), documents.requires_grad_()
