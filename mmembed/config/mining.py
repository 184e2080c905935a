"""Settings of `mmembed mine` and `mmembed filter`; `mining:` of a training stage is the first.

Every bound is off by default. Scores are cosines of the teacher, `percentile`s are of the scores
of all positives of one data set.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from mmembed.config.validation import StrictModel

__all__ = ["FilterConfig", "MiningConfig", "StageMiningConfig"]

Cosine = Annotated[float, Field(ge=-1, le=1)]
Margin = Annotated[float, Field(ge=-2, le=2)]
Percentile = Annotated[float, Field(ge=0, le=100)]


class MiningConfig(StrictModel):
    """Which documents become hard negatives of a row.

    Never taken: the row's positives, by content and by id, those of every row with the same query,
    the query itself, and (`use_labels`) documents of the row's label. Ranks count what is left.

    Attributes:
        num_negatives: of each row.
        ranks: first and last rank that may be taken; the nearest document has rank 1.
        sampling: `top` takes the best that pass, `random` any that pass.
        pool: candidates are the documents of the row's data set, or of `all` that are mined
            together.
        corpus: files of further documents, as `mmembed encode` reads them.
        min_score, max_score: of a negative.
        absolute_margin: a negative scores below the positive minus this.
        relative_margin: 0.05: a negative scores below 95 % of the positive.
        positive: of several positives, the one that the margins count from.
        max_percentile: a negative scores at most this percentile.
        max_similarity: cosine of a negative to the nearest positive (both as documents); what is
            above is taken for the same thing.
        max_query_similarity: cosine of the row's query to the nearest query that the negative is a
            positive of; what is above is taken for the same question. Tells false negatives better
            than `max_similarity` where the teacher has learnt queries against documents only.
        min_positive, min_positive_percentile: a row is dropped unless a positive scores above.
        max_positive_rank: a row is dropped when its best positive scores below the hit of this
            rank.
        use_labels: documents of the row's label are positives.
        siblings: other clips of the row's video become its first negatives, whatever their scores.
        keep_negatives: the row's own negatives stay, in front; mined ones fill up.
        top_up: rows that have too few get random documents of the pool.
        drop_short: rows that still have too few are dropped.
        scores: what is written as `scores` of positives and negatives.
        reranker: folder of the reranker whose scores are written.
        query_instruction, document_instruction: of items that bring none, for the teacher only.
    """

    num_negatives: Annotated[int, Field(ge=1)] = 7
    ranks: tuple[int, int] = (1, 100)
    sampling: Literal["top", "random"] = "top"
    pool: Literal["own", "all"] = "own"
    corpus: tuple[str, ...] = ()
    min_score: Cosine | None = None
    max_score: Cosine | None = None
    absolute_margin: Margin | None = None
    relative_margin: Annotated[float, Field(ge=0, le=1)] | None = None
    positive: Literal["mean", "min", "max"] = "mean"
    max_percentile: Percentile | None = None
    max_similarity: Cosine | None = None
    max_query_similarity: Cosine | None = None
    min_positive: Cosine | None = None
    min_positive_percentile: Percentile | None = None
    max_positive_rank: Annotated[int, Field(ge=1)] | None = None
    use_labels: bool = True
    siblings: bool = False
    keep_negatives: bool = False
    top_up: bool = False
    drop_short: bool = False
    scores: Literal["none", "teacher", "reranker"] = "none"
    reranker: str | None = None
    query_instruction: str | None = None
    document_instruction: str | None = None

    @field_validator("ranks")
    @classmethod
    def _ordered(cls, ranks: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= ranks[0] <= ranks[1]:
            raise ValueError("the first rank is at least 1 and at most the last")
        return ranks

    @model_validator(mode="after")
    def _has_reranker(self) -> Self:
        if (self.scores == "reranker") != (self.reranker is not None):
            raise ValueError("`scores: reranker` and `reranker: FOLDER` go together")
        return self

    @property
    def depth(self) -> int:
        """How many hits of a query are looked at."""
        return max(self.ranks[1], self.max_positive_rank or 0)


class StageMiningConfig(MiningConfig):
    """`mining:` of a training stage: its rows get mined negatives before its first step.

    Attributes:
        teacher: see `mmembed mine`; the model that enters the stage if None. Items of data that
            have an instruction are read with it (the first of several phrasings).
    """

    teacher: str | None = None


class FilterConfig(StrictModel):
    """Which rows and positives are kept.

    Rules are asked in the order of the attributes; the first that a row breaks is its reason.

    Attributes:
        duplicates: rows whose query and positives were seen before are dropped.
        min_positive, min_positive_percentile: positives that score below go (both: below either).
            A row without any left is dropped.
        min_score: a row is dropped unless its best positive scores above.
        lowest: per cent of the rows of each data set, those whose best positive scores lowest,
            that are dropped.
        top_k: a row is dropped unless a positive is among this many nearest documents of its query.
        best_first: the best-scoring positive comes first, which is the one that most losses use.
        pseudo_positive: the nearest document of the pool becomes the first positive where it scores
            more than this above the best one.
        pool: documents of the row's data set, or of `all`.
        query_instruction, document_instruction: of items that bring none, for the teacher only.
    """

    duplicates: bool = False
    min_positive: Cosine | None = None
    min_positive_percentile: Percentile | None = None
    min_score: Cosine | None = None
    lowest: Percentile = 0
    top_k: Annotated[int, Field(ge=1)] | None = None
    best_first: bool = False
    pseudo_positive: Margin | None = None
    pool: Literal["own", "all"] = "own"
    query_instruction: str | None = None
    document_instruction: str | None = None
