"""InfoNCE written from its formula: whole matrices, plain autograd, nothing clever."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmembed.losses.embeddings import ContrastiveEmbeddings
from mmembed.losses.info_nce import InfoNCE


def make_batch(
    seed: int = 0, *, rows: int = 5, hard: int = 2, width: int = 4, narrow: int | None = None
) -> ContrastiveEmbeddings:
    """Documents in a shuffled order; two alike, shared ids and classes; an uneven last row.

    With `narrow`, masks come from the `width` wide embeddings and scores from their prefixes.
    """
    generator = torch.Generator().manual_seed(seed)
    owner = torch.cat([torch.arange(rows), torch.arange(rows).repeat_interleave(hard)])
    if hard:
        owner[-1] = 0  # the last row has one less, the first one more
    count = len(owner)
    place = torch.randperm(count, generator=generator)  # of each document
    queries = normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)
    documents = normalize(
        torch.randn(count, width, generator=generator, dtype=torch.float64), dim=1
    )
    documents[min(4, count - 1)] = normalize(documents[1] + 0.01, dim=0)
    ids = torch.arange(count)
    ids[-1], ids[rows - 1] = ids[2], ids[0]
    order = place.argsort()
    facts = {
        "positive": place[:rows],
        "owner": owner[order],
        "ids": ids[order],
        "query_ids": torch.tensor([7, 8, *range(9, 7 + rows - 1), 7])[:rows],
        "query_classes": torch.arange(rows) % 3,
        "document_classes": torch.randint(0, 3, (count,), generator=generator),
        "draw_seed": seed,
    }
    full = ContrastiveEmbeddings.of_one_process(queries, documents[order], **facts)
    if narrow is None:
        return full.mapped(lambda x: x.clone().requires_grad_())
    cut = full.mapped(lambda x: normalize(x[:, :narrow], dim=1).requires_grad_(), full=full)
    return cut


def share_of(e: ContrastiveEmbeddings, part: slice) -> ContrastiveEmbeddings:
    """The same global batch as the process sees it that holds these rows."""
    from dataclasses import replace

    full = None if e.full is None else share_of(e.full, part)
    return replace(
        e, queries=e.queries[part], row=e.row[part], positive=e.positive[part], full=full
    )


def dense_rows(e: ContrastiveEmbeddings, loss: InfoNCE, tau: Tensor) -> Tensor:
    """(B,) row losses."""
    full = e if e.full is None else e.full
    fq, fa, fd = (x.detach() for x in (full.queries, full.all_queries, full.documents))
    fp = fd[e.positive]
    positives = e.documents[e.positive]
    index, is_positive = torch.arange(len(e.documents)), torch.zeros(len(e.documents)).bool()
    is_positive[e.all_positive] = True
    mine = e.owner == e.row[:, None]
    other_rows = torch.arange(len(e.all_queries)) != e.row[:, None]
    not_hard = torch.zeros(len(e.all_queries)).bool()
    limit = float("inf") if loss.margin_mask.margin is None else loss.margin_mask.margin
    limit = (fq * fp).sum(1, keepdim=True) + limit

    near = torch.zeros(len(e.queries), len(e.documents)).bool()
    if loss.similarity_mask is not None:
        near = fp @ fd.T > loss.similarity_mask.threshold
        share = loss.similarity_mask.max_masked_fraction
        if share is not None:
            every = fd[e.all_positive] @ fd.T > loss.similarity_mask.threshold
            near &= (every.sum() - len(every)) / (every.numel() - len(every)) <= share

    own_class = e.query_classes[e.row][:, None]
    same_document = (e.ids == e.ids[e.positive][:, None]) & loss.duplicate_id
    drop_documents = same_document | ((e.document_classes == own_class) & loss.same_class) | near
    drop_queries = (e.query_classes == own_class) & loss.same_class

    allowed = is_positive & (index != e.positive[:, None]) & loss.in_batch
    if loss.hard_negatives != "none":
        allowed |= ~is_positive & (mine | (loss.hard_negatives == "shared"))
    plain = [
        (e.queries @ e.documents.T, allowed & ~drop_documents & (fq @ fd.T <= limit), ~is_positive)
    ]
    if loss.query_query:
        duplicate = (e.query_ids == e.query_ids[e.row][:, None]) & loss.duplicate_id
        live = other_rows & ~duplicate & ~drop_queries & (fq @ fa.T <= limit)
        plain.append((e.queries @ e.all_queries.T, live, not_hard))
    if loss.document_document != "none":
        live = ~mine & (is_positive | (loss.document_document == "all"))
        live |= mine & ~is_positive & loss.own_documents
        decides = {"query": fq @ fd.T, "documents": fp @ fd.T}.get(
            loss.margin_mask.document_document, torch.full_like(fq @ fd.T, -9.0)
        )
        live = live & ~drop_documents & (decides <= limit)
        plain.append((positives @ e.documents.T, live, ~is_positive))
    mixed = loss.mixed_negatives(e)
    extra = (
        e.queries @ mixed.T,
        torch.ones(len(e.queries), len(mixed)).bool(),
        torch.ones(len(mixed)).bool(),
    )

    positive = (e.queries * positives).sum(1)

    def row_losses(*pools: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        logits = [positive[:, None] / tau[:, None]]
        for scores, live, is_hard in pools:
            scope = loss.hardness.scope
            weighted = {"hard": is_hard, "in_batch": ~is_hard, "all": is_hard | True}[scope]
            weight = scores.detach() if loss.hardness.detach else scores
            z = scores / tau[:, None] + loss.hardness.alpha * weight * weighted
            logits.append(z.masked_fill(~live, -torch.inf))
        return torch.cat(logits, 1).logsumexp(1) - logits[0][:, 0]

    def weighted(full_losses: Tensor, base_losses: Tensor) -> Tensor:
        if loss.focal.gamma == 0:
            return full_losses
        nll = full_losses if loss.focal.probability == "full" else base_losses
        nll = nll.detach() if loss.focal.detach else nll
        return full_losses * (1 - torch.exp(-nll)).clamp_min(1e-12) ** loss.focal.gamma

    losses = weighted(row_losses(*plain, extra), row_losses(*plain))
    if loss.symmetric:
        live = other_rows & ~drop_queries & (fp @ fa.T <= limit)
        live &= ~same_document[:, e.all_positive] & ~near[:, e.all_positive]
        reverse = row_losses((positives @ e.all_queries.T, live, not_hard))
        losses = (losses + weighted(reverse, reverse)) / 2
    return losses
