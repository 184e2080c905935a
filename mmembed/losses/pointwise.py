"""Pointwise reranking: one (query, document) prompt, answered by the token "yes" or "no".

    full_vocabulary:  loss = log sum_v exp(z_v) - z_label        (Qwen3-Reranker, equation 2)
    two_way:          loss = softplus(z_other - z_label)         (softmax over the two tokens)
    score = sigmoid(z_yes - z_no)

z are the logits of the last position of the prompt. The report typesets the score with
probabilities in the exponent; its code, like this one, takes logits.

`yes_no_loss_from_states` needs no logits: it runs over the vocabulary in chunks and computes each
again in the backward pass, so that (n, V) is never stored. Letters: n prompts, V vocabulary, D
width of the hidden states.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from mmembed.losses.embeddings import LossOutput, at_least_float32

__all__ = ["YesNoForm", "yes_no_loss", "yes_no_loss_from_states", "yes_no_score"]

YesNoForm = Literal["full_vocabulary", "two_way"]


def yes_no_score(logits: Tensor, yes_id: int, no_id: int) -> Tensor:
    """(n,) relevance in (0, 1) from (n, V) logits."""
    return (at_least_float32(logits[..., yes_id]) - at_least_float32(logits[..., no_id])).sigmoid()


def yes_no_loss(
    logits: Tensor,
    labels: Tensor,
    yes_id: int,
    no_id: int,
    form: YesNoForm = "full_vocabulary",
) -> LossOutput:
    """The mean loss of (n, V) logits.

    Args:
        labels: (n,) bool, True = the document is relevant.
        yes_id, no_id: the two token ids.
        form: the denominator: every token of the vocabulary, or these two.

    Metrics: `accuracy`, where a tie is wrong.

    Raises:
        ValueError: an unknown form, ids that are equal or outside the vocabulary, or labels that
            are not (n,) bool.
    """
    _check(logits, logits.shape[-1], labels, yes_id, no_id, form)
    with torch.autocast(logits.device.type, enabled=False):
        logits = at_least_float32(logits)
        two = logits[:, [no_id, yes_id]]
        return _output(two, logits.logsumexp(-1) if form == "full_vocabulary" else None, labels)


def yes_no_loss_from_states(
    states: Tensor,
    head: Tensor,
    labels: Tensor,
    yes_id: int,
    no_id: int,
    form: YesNoForm = "full_vocabulary",
    *,
    chunk_tokens: int = 8192,
) -> LossOutput:
    """`yes_no_loss(states @ head.T, ...)` without the (n, V) logits.

    Args:
        states: (n, D) hidden states of the last position.
        head: (V, D) rows of the language-model head. Both are multiplied in at least float32.
        chunk_tokens: rows of `head` per step; changes memory, not the result.
    """
    _check(states, len(head), labels, yes_id, no_id, form)
    with torch.autocast(states.device.type, enabled=False):
        states = at_least_float32(states)
        two = states @ head[[no_id, yes_id]].to(states.dtype).T  # (n, 2)
        if form == "two_way":
            return _output(two, None, labels)
        # split, not slices: its backward writes the gradient of `head` once
        parts = [
            checkpoint(
                _chunk_logsumexp, states, rows, use_reentrant=False, preserve_rng_state=False
            )
            for rows in head.split(chunk_tokens)
        ]
        return _output(two, torch.stack(parts).logsumexp(0), labels)


def _chunk_logsumexp(states: Tensor, rows: Tensor) -> Tensor:
    return (states @ rows.to(states.dtype).T).logsumexp(-1)  # (n,)


def _output(two: Tensor, logsumexp: Tensor | None, labels: Tensor) -> LossOutput:
    """From (n, 2) logits of no and yes, and (n,) the denominator; None = of these two."""
    of_label = two.gather(1, labels.long()[:, None])[:, 0]
    of_other = two.gather(1, (~labels).long()[:, None])[:, 0]
    losses = softplus(of_other - of_label) if logsumexp is None else logsumexp - of_label
    accuracy = (of_label > of_other).to(two.dtype).mean()
    return LossOutput(losses.mean(), {"accuracy": accuracy})


def _check(
    rows: Tensor, num_tokens: int, labels: Tensor, yes_id: int, no_id: int, form: str
) -> None:
    if form not in get_args(YesNoForm):
        raise ValueError(f"form is {form!r}; allowed: {', '.join(get_args(YesNoForm))}")
    if yes_id == no_id or not (0 <= yes_id < num_tokens and 0 <= no_id < num_tokens):
        raise ValueError(
            f"yes_id {yes_id} and no_id {no_id} must be two different tokens of "
            f"0..{num_tokens - 1}; take them from the tokenizer"
        )
    if labels.dtype != torch.bool or labels.shape != rows.shape[:1]:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}; expected "
            f"({len(rows)},) and torch.bool, True for a relevant document"
        )
