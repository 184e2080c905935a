"""Limits of the demo, in one place; `mmembed demo` fills them from its options."""

from __future__ import annotations

from pydantic import Field

from mmembed.config.validation import StrictModel

__all__ = ["DemoSettings"]


class DemoSettings(StrictModel):
    """What a visitor may ask for; where the demo listens is in `ServerSettings`.

    Attributes:
        upload_bytes, uploads_bytes, uploads_count: of one upload, and of all that are kept.
        upload_timeout_seconds: until all of an upload is here.
        upload_seconds: an upload that was not used for so long is removed.
        text_chars: of a query or an instruction.
        body_bytes: of a request that is no upload.
        k: most results of one search.
        rerank_depth: how many of the best results the reranker reads.
        refresh_seconds: how soon the page sees what another process adds to the index.
        thumbnail_cache_bytes: pictures kept in memory.
        decode_workers: processes that open media for thumbnails and uploads.
        max_short_rows: largest index that is searched with other dimensions than its own.
    """

    upload_bytes: int = Field(default=50_000_000, gt=0)
    uploads_bytes: int = Field(default=500_000_000, gt=0)
    uploads_count: int = Field(default=200, gt=0)
    upload_timeout_seconds: float = Field(default=300.0, gt=0)
    upload_seconds: float = Field(default=3600.0, gt=0)
    text_chars: int = Field(default=20_000, gt=0)
    body_bytes: int = Field(default=1_000_000, gt=0)
    k: int = Field(default=200, gt=0)
    rerank_depth: int = Field(default=50, gt=0)
    refresh_seconds: float = Field(default=5.0, ge=0)
    thumbnail_cache_bytes: int = Field(default=64_000_000, ge=0)
    decode_workers: int = Field(default=2, gt=0)
    max_short_rows: int = Field(default=200_000, gt=0)
