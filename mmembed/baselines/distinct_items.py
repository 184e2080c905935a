"""What the models of other libraries share: items once each, errors together, finite rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmembed.encoder.duplicates import unique_items
from mmembed.encoder.report import error_position
from mmembed.errors import InputError
from mmembed.types import MultimodalInput

__all__ = ["check_rows", "distinct_items", "raise_all"]


def distinct_items(
    items: Sequence[MultimodalInput],
) -> list[tuple[MultimodalInput, list[int]]]:
    """Distinct items in order of first appearance, each with all its positions."""
    return [
        (item, places)
        for item, places in unique_items(items)
        if isinstance(item, MultimodalInput)  # and never a pair
    ]


def raise_all(errors: Sequence[InputError]) -> None:
    """Raise the error of the lowest index, with all in its `errors`; nothing when there is none."""
    ordered = sorted(errors, key=error_position)
    if ordered:
        ordered[0].errors = tuple(ordered)
        raise ordered[0]


def check_rows(rows: np.ndarray) -> np.ndarray:
    """The rows.

    Raises:
        InputError: rows that are not finite, by their indices.
    """
    detail = "the model gave NaN or infinity for this item"
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    raise_all([InputError("nonfinite", detail, index=int(row)) for row in bad])
    return rows
