"""What a run of `corpus.index_folder` reports while it runs and at its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmembed.search.file_encoder import FileResult

__all__ = ["Failure", "IndexSummary", "Progress"]


@dataclass(frozen=True)
class Failure:
    """A file, or an item of one, that is not in the index, and why.

    Attributes:
        id: the path, with a fragment for an item of a file (`Row.id`).
        path: the file or folder.
        code, detail: as in `InputError`.
    """

    id: str
    path: str
    code: str
    detail: str


@dataclass(frozen=True)
class Progress:
    """Where a run stands; `bytes_read` counts the files that were opened."""

    files_done: int
    files_total: int
    items_encoded: int
    bytes_read: int = 0


@dataclass
class IndexSummary:
    """What one run did.

    Attributes:
        files: candidates found in the folder.
        unchanged: of these, files whose rows were kept as they are.
        postponed: files that are still being written (`settle_seconds`).
        removed: files that left the index because they left the folder.
        ignored: files of other kinds, counted by suffix.
        encoded, reused: items that went through the model, and that had a vector already.
        bytes_read: of the files that were opened.
        rows: rows of the index after the run.
        failures: what is not in the index; also written to its list of errors.
        warnings: what was encoded with a loss.
    """

    files: int = 0
    unchanged: int = 0
    postponed: list[str] = field(default_factory=list)
    removed: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    encoded: int = 0
    reused: int = 0
    bytes_read: int = 0
    rows: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def num_changes(self) -> int:
        """Items that came and files that left."""
        return self.encoded + self.reused + self.removed

    def add(self, result: FileResult) -> None:
        """Count what became of one file."""
        self.unchanged += result.is_unchanged
        self.encoded += result.encoded
        self.reused += result.reused
        self.bytes_read += result.candidate.size
        self.failures += result.failures
        self.warnings += result.warnings

    def __str__(self) -> str:
        text = (
            f"{self.files} files: {self.encoded} items encoded, {self.reused} had a vector, "
            f"{self.unchanged} files unchanged, {self.removed} files removed, "
            f"{len(self.failures)} failures; {self.rows} rows in all"
        )
        if self.postponed:
            text += f"; {len(self.postponed)} files are still being written"
        if not self.encoded or self.seconds <= 0:
            return text
        rates = (
            (self.files / self.seconds, "files/s"),
            (self.encoded / self.seconds, "items/s"),
            (self.bytes_read / self.seconds / 1e6, "MB/s"),
        )
        return (
            f"{text} ({self.seconds:.1f} s: {', '.join(f'{n:,.1f} {unit}' for n, unit in rates)})"
        )
