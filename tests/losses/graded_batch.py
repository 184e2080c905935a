"""A batch with scores for tests of objectives, and its loss when the rows are split."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from mmembed.losses.embeddings import ContrastiveEmbeddings, Loss


def graded_batch(
    num_hard: tuple[int, ...] = (2, 0, 3, 1, 2, 1), *, seed: int = 0, dim: int = 8
) -> ContrastiveEmbeddings:
    """float64; `num_hard[i]` hard negatives in row i, columns in random order, scores with ties."""
    generator = torch.Generator().manual_seed(seed)
    rows = len(num_hard)
    owner = torch.arange(rows).repeat_interleave(1 + torch.tensor(num_hard))
    owner = owner[torch.randperm(len(owner), generator=generator)]
    positive = torch.stack([(owner == row).nonzero()[0, 0] for row in range(rows)])
    queries = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    documents = torch.randn(len(owner), dim, generator=generator, dtype=torch.float64)
    ids = torch.arange(len(owner))
    ids[positive[1]] = ids[positive[0]]
    unit = nn.functional.normalize
    return ContrastiveEmbeddings.of_one_process(
        unit(queries), unit(documents), positive, owner, ids,
        scores=torch.randint(0, 4, (len(owner),), generator=generator).double(), draw_seed=7,
    )  # fmt: skip


def pairs_with_cosines(cosines: Tensor, labels: Tensor) -> ContrastiveEmbeddings:
    """Pairs whose cosines are free variables: queries of width 1, documents 1."""
    count = torch.arange(len(cosines))
    return ContrastiveEmbeddings.of_one_process(
        cosines[:, None], torch.ones_like(cosines)[:, None], count, count, count, scores=labels
    )


def leaves(e: ContrastiveEmbeddings) -> ContrastiveEmbeddings:
    """The same values as leaves of a graph."""
    return e.mapped(lambda x: x.detach().clone().requires_grad_())


def local(e: ContrastiveEmbeddings, rows: slice) -> ContrastiveEmbeddings:
    """The same global batch, seen by the process that owns these rows."""
    return replace(e, queries=e.queries[rows], row=e.row[rows], positive=e.positive[rows])


def value_and_gradients(
    loss: Loss,
    e: ContrastiveEmbeddings,
    temperature: Tensor,
    shares: tuple[slice, ...] | None = None,
) -> tuple[Tensor, ...]:
    """Loss and gradients of queries, documents, temperature and the loss's own parameters.

    With `shares`, as processes that own these rows compute them: a gather's backward sums over
    processes, the trainer multiplies by the row share B * W / G and averages over W processes. The
    loss is linear in each, so that is the gradient of sum_w B_w / G * loss_w.
    """
    e, temperature = leaves(e), temperature.detach().clone().requires_grad_()
    parameters = list(loss.parameters()) if isinstance(loss, nn.Module) else []
    for parameter in parameters:
        parameter.grad = None
    rows = len(e.queries)
    of_rows = temperature.expand(rows)  # a scalar is one learnable value for all rows
    if shares is None:
        value = loss(e, of_rows).loss
    else:
        assert sum(len(range(*share.indices(rows))) for share in shares) == rows
        seen = [(local(e, share), of_rows[share]) for share in shares]
        value = sum(len(part.queries) / rows * loss(part, tau).loss for part, tau in seen)
    value.backward()
    gradients = [x.grad for x in (e.queries, e.documents, temperature, *parameters)]
    assert all(gradient is not None for gradient in gradients)
    return value.detach(), *(gradient.clone() for gradient in gradients)


UNEVEN = (slice(0, 2), slice(2, 3), slice(3, 6))


def assert_equal_over_processes(
    loss: Loss, e: ContrastiveEmbeddings, temperature: Tensor, **tolerance: float
) -> None:
    one = value_and_gradients(loss, e, temperature)
    many = value_and_gradients(loss, e, temperature, UNEVEN)
    for found, expected in zip(many, one, strict=True):
        torch.testing.assert_close(found, expected, **(tolerance or {"rtol": 0, "atol": 1e-12}))
        assert expected.abs().max() > 1e-6, "a gradient that is 0 everywhere proves nothing"


def assert_unchanged_by_autocast(loss: Loss, e: ContrastiveEmbeddings, tau: Tensor) -> None:
    """bfloat16 embeddings under autocast give what their float32 values give outside it."""
    half = e.mapped(lambda x: x.to(torch.bfloat16))
    expected = loss(half.mapped(lambda x: x.float()), tau.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(half, tau.float())
    assert found.loss.dtype == torch.float32
    assert torch.equal(found.loss, expected.loss)
    assert found.metrics.keys() == expected.metrics.keys()
    for value in found.metrics.values():
        assert value.ndim == 0 and not value.requires_grad
