"""List-wise distillation: the student's softmax over a query's candidates follows the teacher's.

    cross entropy_i = -sum_c p_ic log q_ic,    KL_i = cross entropy_i + sum_c p_ic log p_ic,
    p_i = softmax(teacher score / teacher temperature),  q_i = softmax(cosine / temperature)

over the candidates c of query i: the documents it brought, its positive and its own hard
negatives. Both have the same gradient; KL is 0 where the student equals the teacher. Cross entropy
is Qwen3-VL-Embedding 5.3 with the logits of a reranker, KL at temperature 0.05 is KaLM-Embedding
V2.5. Rows may have different numbers of candidates.

Letters: B local queries, n their candidates, K the longest row, M all documents, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from mmembed.losses.embeddings import ContrastiveEmbeddings, LossOutput, at_least_float32
from mmembed.losses.validation import check_finite, row_temperatures

__all__ = ["Distillation", "Divergence"]

Divergence = Literal["cross_entropy", "kl"]


@dataclass(frozen=True)
class Distillation:
    """The mean over local queries of the divergence from the teacher's distribution.

    Args:
        divergence: equal gradients; the values differ by the teacher's entropy.
        teacher_temperature: divides the teacher's scores.
        student_temperature: divides the cosines; None = the temperature of the batch.

    Metrics: `teacher_entropy`; `agreement`, the share of rows where the student alone prefers what
    the teacher prefers (a tie is no preference); `positive_similarity`.

    Raises:
        NonFiniteEmbeddings: at a call, NaN or infinity in queries or documents.
        ValueError: an unknown divergence, a temperature that is not positive, or a document of the
            global batch without a finite teacher score.
    """

    divergence: Divergence = "cross_entropy"
    teacher_temperature: float = 1.0
    student_temperature: float | None = None

    def __post_init__(self) -> None:
        if self.divergence not in get_args(Divergence):
            raise ValueError(
                f"Distillation: divergence is {self.divergence!r}; allowed: "
                + ", ".join(get_args(Divergence))
            )
        for name in ("teacher_temperature", "student_temperature"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"Distillation: {name} is {value}; it must be positive")

    def __call__(self, e: ContrastiveEmbeddings, temperature: Tensor) -> LossOutput:
        teacher_scores = _teacher_scores(e)
        check_finite(e)
        with torch.autocast(e.queries.device.type, enabled=False):
            columns, row, place = _candidates(e)  # (n,) each
            cosines = (
                at_least_float32(e.queries)[row] * at_least_float32(e.documents[columns])
            ).sum(-1)
            if self.student_temperature is not None:
                temperature = cosines.new_tensor(self.student_temperature)
            tau = row_temperatures(temperature, e)
            shape = len(e.queries), int(place.max()) + 1 if len(place) else 1

            def padded(values: Tensor) -> Tensor:  # (B, K)
                return values.new_full(shape, -torch.inf).index_put((row, place), values)

            present = padded(torch.zeros_like(cosines)) == 0
            student = padded(cosines / tau[row]).log_softmax(-1)
            logits = teacher_scores[columns].to(cosines.dtype) / self.teacher_temperature
            teacher = padded(logits).log_softmax(-1)
            # log 0 of the padding times probability 0 would be NaN
            student, log_teacher = (x.masked_fill(~present, 0) for x in (student, teacher))
            entropy = -(teacher.exp() * log_teacher).sum(-1)  # (B,)
            divergence = -(teacher.exp() * student).sum(-1)
            if self.divergence == "kl":
                divergence = divergence - entropy
            loss = divergence.sum() / max(len(divergence), 1)
            with torch.no_grad():
                top = teacher.argmax(-1, keepdim=True)  # (B, 1)
                others = student.masked_fill(~present, -torch.inf).scatter(1, top, -torch.inf)
                agree = student.gather(1, top)[:, 0] > others.amax(-1)
                metrics = {
                    "teacher_entropy": entropy.mean(),
                    "agreement": agree.to(loss.dtype).mean(),
                    "positive_similarity": cosines[columns == e.positive[row]].mean(),
                }
        return LossOutput(loss, metrics)


def _candidates(e: ContrastiveEmbeddings) -> tuple[Tensor, Tensor, Tensor]:
    """Column, local row and place within the row of each document that a local query brought."""
    local_row = torch.full((len(e.all_queries),), -1, device=e.row.device)
    local_row[e.row] = torch.arange(len(e.row), device=e.row.device)
    row = local_row[e.owner]  # (M,)
    columns = (row >= 0).nonzero().flatten()
    row, order = row[columns].sort(stable=True)
    first = torch.searchsorted(row, row)
    return columns[order], row, torch.arange(len(row), device=row.device) - first


def _teacher_scores(e: ContrastiveEmbeddings) -> Tensor:
    """(M,) scores; checked on the global batch, so that all processes raise together."""
    advice = "Give the examples `scores`, or choose another objective for this task."
    if e.scores is None:
        raise ValueError(
            "Distillation: the batch has no scores; it needs a teacher's score of every query "
            f"with its positive and each of its hard negatives. {advice}"
        )
    missing = (~e.scores.isfinite()).nonzero().flatten()
    if len(missing):
        column = missing[0]
        raise ValueError(
            f"Distillation: row {e.owner[column].item()} of the global batch has the teacher score "
            f"{e.scores[column].item()} for one of its documents, {len(missing)} of "
            f"{len(e.scores)} documents in all; each needs a finite one. {advice}"
        )
    return e.scores
