"""What `encode` says beside the vectors: which items failed, were cut, or need a warning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mmembed.encoder.batching import Window
from mmembed.errors import InputError
from mmembed.inputs.processor import PreparedItem

__all__ = ["EncodeReport", "EncodeRun", "error_position"]


@dataclass
class EncodeReport:
    """What happened to each of the N items of an `encode` call."""

    ok: np.ndarray  # (N,) bool
    errors: list[InputError] = field(default_factory=list)  # in order of their index
    truncated: list[int] = field(default_factory=list)
    warnings: list[tuple[int, str]] = field(default_factory=list)
    num_tokens: int = 0  # of the language model, each unique item counted once

    @property
    def kept(self) -> np.ndarray:
        """Indices of the items whose rows `on_error="skip"` returns."""
        return np.flatnonzero(self.ok)


@dataclass
class EncodeRun:
    """The vectors and the report of an `encode` call while it runs."""

    vectors: np.ndarray
    report: EncodeReport

    def note(self, window: Window, prepared: Sequence[PreparedItem | InputError]) -> None:
        """Enter errors, warnings and counts of a window under every index they concern."""
        for indices, result in zip(window.indices, prepared, strict=True):
            if isinstance(result, InputError):
                self.report.errors.extend(result.at(index) for index in indices)
                continue
            self.report.num_tokens += result.num_tokens
            for index in indices:
                if result.truncated:
                    self.report.truncated.append(index)
                self.report.warnings.extend((index, text) for text in result.warnings)

    def raise_first(self, before: int) -> None:
        """Raise the error of the lowest index, once everything before `before` is known."""
        errors = sorted(self.report.errors, key=error_position)
        if errors and error_position(errors[0]) < before:
            first = errors[0]
            first.errors = tuple(errors)
            first.partial = self.vectors
            raise first

    def sort_errors(self) -> None:
        self.report.errors.sort(key=error_position)


def error_position(error: InputError) -> int:
    """The position in the caller's list, also of an error inside an item."""
    index = error.index
    return index[0] if isinstance(index, tuple) else int(index or 0)
