"""What the page may ask, as strict models: an unknown key or a wrong type is an error."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from mmembed.config.validation import StrictModel
from mmembed.search.rows import Kind

__all__ = ["ExplainRequest", "Mode", "SearchRequest", "UploadUse"]

Mode = Literal["vector", "text", "hybrid"]
_ID = Field(min_length=1, max_length=64)
_DAY = r"^\d{4}-\d{2}-\d{2}$"


class UploadUse(StrictModel):
    """An upload as a part of the query: a page of a PDF, or some seconds of a clip."""

    id: str = _ID
    page: int | None = Field(default=None, ge=1)
    start: float | None = Field(default=None, ge=0)
    end: float | None = Field(default=None, ge=0)


class SearchRequest(StrictModel):
    """One search. At least one of `text`, `uploads` and `like` must be given.

    Attributes:
        like: a hit whose item joins the query; alone, its stored vector is the query.
        after, before: days; `before` includes that day.
        pages, duration: from and to, both included; None leaves a side open.
        dimension: search with the first dimensions only (Matryoshka models).
    """

    text: str | None = None
    uploads: tuple[Annotated[str, _ID] | UploadUse, ...] = Field(default=(), max_length=8)
    like: str | None = Field(default=None, max_length=64)
    instruction: str | None = None
    kinds: tuple[Kind, ...] | None = None
    folder: str | None = Field(default=None, max_length=64)
    suffixes: tuple[str, ...] | None = Field(default=None, max_length=100)
    after: str | None = Field(default=None, pattern=_DAY)
    before: str | None = Field(default=None, pattern=_DAY)
    pages: tuple[int | None, int | None] | None = None
    duration: tuple[float | None, float | None] | None = None
    k: int = Field(default=24, ge=1)
    mode: Mode = "vector"
    rerank: bool = False
    space: str | None = Field(default=None, max_length=64)
    dimension: int | None = Field(default=None, ge=1)

    @field_validator("text", "instruction", "like", "folder", "after", "before", mode="before")
    @classmethod
    def _empty_is_absent(cls, value: object) -> object:
        return None if isinstance(value, str) and not value.strip() else value


class ExplainRequest(SearchRequest):
    """Like a search, or the `row` of a hit: what the model reads."""

    row: str | None = Field(default=None, max_length=64)
