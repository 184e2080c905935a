"""What `encode` says beside the vectors: which items failed, were cut, or need a warning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mmembed.encoder.batching import Window
from mmembed.encoder.duplicates import same_source
from mmembed.errors import InputError
from mmembed.inputs.items import Pair, PreparedItem
from mmembed.types import MultimodalInput

__all__ = ["EncodeReport", "EncodeRun", "error_position"]


@dataclass
class EncodeReport:
    """What happened to each of the N items of an `encode` call.

    `truncated`, `warnings` and `num_tokens` are of what was encoded, not of what was cached.

    Attributes:
        num_tokens: of the language model, each unique item counted once.
        num_cached: items whose vector was read from the cache.
        num_encoded: unique items that went through the model.
        seconds: of the whole call; `data_wait_seconds` of them the model waited for items to be
            opened and tokenised, nothing else being left to do.
    """

    ok: np.ndarray  # (N,) bool
    errors: list[InputError] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)
    warnings: list[tuple[int, str]] = field(default_factory=list)
    num_tokens: int = 0
    num_cached: int = 0
    num_encoded: int = 0
    seconds: float = 0.0
    data_wait_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds if self.seconds else 0.0

    @property
    def data_wait_share(self) -> float:
        """Of the call's time, spent waiting for data."""
        return min(self.data_wait_seconds / self.seconds, 1.0) if self.seconds else 0.0

    @property
    def kept(self) -> np.ndarray:
        """Indices of the items whose rows `on_error="skip"` returns."""
        return np.flatnonzero(self.ok)

    def sort(self) -> None:
        """Bring everything into the order of the items."""
        self.errors.sort(key=error_position)
        self.truncated.sort()
        self.warnings.sort(key=lambda pair: pair[0])


@dataclass
class EncodeRun:
    """The vectors and the report of an `encode` call while it runs; `items` are as parsed."""

    vectors: np.ndarray
    report: EncodeReport
    items: Sequence[MultimodalInput | Pair | None]

    def note(self, window: Window, prepared: Sequence[PreparedItem | InputError]) -> int:
        """Enter errors, warnings and counts of a window; returns how many rows have failed."""
        failed = 0
        for indices, result in zip(window.indices, prepared, strict=True):
            if isinstance(result, InputError):
                self._fail(indices, result)
                failed += len(indices)
                continue
            self.report.num_encoded += 1
            self.report.num_tokens += result.num_tokens
            for index in indices:
                if result.truncated:
                    self.report.truncated.append(index)
                self.report.warnings.extend((index, text) for text in result.warnings)
        return failed

    def enter(self, indices: Sequence[int], row: np.ndarray | InputError) -> None:
        """Enter what the model made of an item; a row that is not finite is an error."""
        if not isinstance(row, InputError) and not np.isfinite(row).all():
            row = InputError("nonfinite", "the model gave NaN or infinity for this item")
        if isinstance(row, InputError):
            self._fail(indices, row)
            return
        self.vectors[indices] = row
        self.report.ok[indices] = True

    def _fail(self, indices: Sequence[int], error: InputError) -> None:
        """The error of equal items, each under the name of its own file."""
        first = self.items[indices[0]]
        for index in indices:
            copy, item = error.at(index), self.items[index]
            if item is not first and item is not None and first is not None:
                copy.source = same_source(copy.source, first, item)
            self.report.errors.append(copy)

    def raise_first(self, before: int) -> None:
        """Raise the error of the lowest index, once everything before `before` is known."""
        errors = sorted(self.report.errors, key=error_position)
        if errors and error_position(errors[0]) < before:
            first = errors[0]
            first.errors = tuple(errors)
            first.partial = self.vectors
            raise first


def error_position(error: InputError) -> int:
    """The position in the caller's list, also of an error inside an item."""
    index = error.index
    return index[0] if isinstance(index, tuple) else int(index or 0)
