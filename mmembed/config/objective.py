"""The knobs of a training objective. Only data; `training.objectives` builds losses from it.

Recipes differ in these values, never in code; the neutral value of every knob means "off".
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmembed.config.validation import StrictModel

__all__ = [
    "DistillationConfig",
    "DocumentMaskConfig",
    "FocalConfig",
    "HardnessConfig",
    "LossConfig",
    "MarginMaskConfig",
    "MatryoshkaConfig",
    "MixedNegativesConfig",
    "QuantizationConfig",
]


class HardnessConfig(StrictModel):
    """Negatives count exp(alpha * s) times; alpha 0 = off."""

    alpha: float = Field(default=0.0, ge=0)
    scope: Literal["in_batch", "hard", "all"] = "all"
    detach: bool = True


class DocumentMaskConfig(StrictModel):
    """Drop negatives whose document is nearer than `threshold` to the positive; None = off."""

    threshold: float | None = None
    from_step: int = Field(default=0, ge=0)
    max_masked_fraction: float | None = Field(default=None, ge=0, le=1)


class MarginMaskConfig(StrictModel):
    """Drop negatives with a score above the positive's plus `margin`; None = off.

    `document_document` says which score decides in that pool: the query's with the document,
    that of the two documents, or none.
    """

    margin: float | None = None
    document_document: Literal["query", "documents", "none"] = "query"


class MixedNegativesConfig(StrictModel):
    """Negatives mixed from each row's own hard negatives.

    Args:
        pair: (a, b) of the Beta distribution of the weight between two of them; None = off.
        list: one mean of all of them, weighted by the softmax of their scores.
    """

    pair: tuple[float, float] | None = None
    list: bool = False


class FocalConfig(StrictModel):
    """Rows count (1 - P)^gamma times; gamma 0 = off."""

    gamma: float = Field(default=0.0, ge=0)
    probability: Literal["full", "base"] = "full"
    detach: bool = False


class DistillationConfig(StrictModel):
    """Matches the teacher's distribution over the positive and own hard negatives; weight 0 = off.

    Args:
        divergence: which term of the loss; KL is cross-entropy minus the teacher's entropy.
        student_temperature: None = the stage's temperature.
    """

    weight: float = Field(default=0.0, ge=0)
    divergence: Literal["cross_entropy", "kl"] = "cross_entropy"
    teacher_temperature: float = Field(default=1.0, gt=0)
    student_temperature: float | None = Field(default=None, gt=0)


class MatryoshkaConfig(StrictModel):
    """The loss of every prefix of the embedding too; no dims = off. Weights are not normalised."""

    dims: tuple[Annotated[int, Field(ge=1)], ...] = ()
    weights: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _one_weight_each(self) -> MatryoshkaConfig:
        if len(set(self.dims)) != len(self.dims):
            raise ValueError(f"dims {list(self.dims)} name one dimension twice")
        if self.weights is not None and len(self.weights) != len(self.dims):
            raise ValueError(
                f"{len(self.weights)} weights for {len(self.dims)} dims; give one each"
            )
        return self


class QuantizationConfig(StrictModel):
    """The loss of quantised embeddings too, with a learnt step; None = off."""

    bits: Literal["int8", "binary"] | None = None
    weight: float = Field(default=1.0, gt=0)


class LossConfig(StrictModel):
    """The objective of batches of one task. Defaults: InfoNCE over in-batch documents and hard
    negatives, everything else off.

    Args:
        objective: `infonce`; `cosent` ranks graded pairs; `sigmoid` judges pairs one by one;
            `yes_no` trains a reranker's answer to (query, document); `none` leaves the
            distillation term alone.
        yes_no_form: the answer among all tokens of the vocabulary, or of the two.
        in_batch: other queries' positives are negatives.
        hard_negatives: nobody's, the query's own, or everybody's.
        max_hard_negatives: of a row; the first ones.
        query_query: other queries are negatives.
        document_document: documents of other rows are negatives of the positive.
        own_documents: the row's own hard negatives take part in `document_document`.
        duplicate_id: drop negatives with the positive's (or query's) content.
        same_class: drop negatives of the query's class.
        symmetric: average with the direction document -> query.
    """

    objective: Literal["infonce", "cosent", "sigmoid", "yes_no", "none"] = "infonce"
    yes_no_form: Literal["full_vocabulary", "two_way"] = "full_vocabulary"
    in_batch: bool = True
    hard_negatives: Literal["none", "own", "shared"] = "shared"
    max_hard_negatives: int | None = Field(default=None, ge=0)
    query_query: bool = False
    document_document: Literal["none", "positives", "all"] = "none"
    own_documents: bool = False
    mixed_negatives: MixedNegativesConfig = MixedNegativesConfig()
    duplicate_id: bool = True
    same_class: bool = False
    margin_mask: MarginMaskConfig = MarginMaskConfig()
    document_mask: DocumentMaskConfig = DocumentMaskConfig()
    hardness: HardnessConfig = HardnessConfig()
    focal: FocalConfig = FocalConfig()
    symmetric: bool = False
    distillation: DistillationConfig = DistillationConfig()
    matryoshka: MatryoshkaConfig = MatryoshkaConfig()
    quantization: QuantizationConfig = QuantizationConfig()

    @model_validator(mode="after")
    def _some_negatives(self) -> LossConfig:
        pools = (
            self.in_batch
            or self.hard_negatives != "none"
            or self.query_query
            or self.document_document != "none"
        )
        if self.objective == "infonce" and not pools:
            raise ValueError("no negatives: set in_batch, or hard_negatives to own or shared")
        if self.objective == "none" and not self.distillation.weight:
            raise ValueError("objective none needs a distillation weight above 0")
        return self
