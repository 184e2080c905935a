"""Some of the rows that were mined, for people to look at: what `sheet.py` shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmembed.data.row_files import RowFile
from mmembed.mining.sheet import SheetDocument, SheetRow

__all__ = ["sampled_rows"]


def sampled_rows(files: Mapping[str, Path], count: int, *, seed: int) -> list[SheetRow]:
    """Rows drawn from all files together, in their order.

    A negative that scores above a positive of its row is suspected to be a positive.
    """
    opened = {name: RowFile(path, name=name) for name, path in files.items()}
    places = [(name, row) for name, rows in opened.items() for row in range(len(rows))]
    drawn = np.random.default_rng(seed).permutation(len(places))[:count]
    return [_sheet_row(opened[name], row) for name, row in (places[n] for n in sorted(drawn))]


def _sheet_row(rows: RowFile, row: int) -> SheetRow:
    example, meta = rows[row], rows.meta(row)
    positives: list[float] = meta["positive_scores"]
    negatives = zip(
        example.hard_negatives,
        meta["negative_scores"],
        meta["negative_ranks"],
        meta["negative_origins"],
        strict=True,
    )
    return SheetRow(
        example.query_id,
        example.query,
        [
            SheetDocument(item, score)
            for item, score in zip(example.positives, positives, strict=True)
        ],
        [
            SheetDocument(
                item, score, rank, score > min(positives), "" if origin == "hit" else origin
            )
            for item, score, rank, origin in negatives
        ],
    )
