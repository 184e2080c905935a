"""What a run of `corpus.index_folder` reports while it runs and at its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

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
    """Where a run stands."""

    files_done: int
    files_total: int
    items_encoded: int


@dataclass
class IndexSummary:
    """What one run did.

    Attributes:
        files: candidates found in the folder.
        unchanged: of these, files whose rows were kept as they are.
        removed: files that left the index because they left the folder.
        ignored: files of other kinds, counted by suffix.
        encoded, reused: items that went through the model, and that had a vector already.
        rows: rows of the index after the run.
        failures: what is not in the index; also written to `errors.jsonl` beside it.
        warnings: what was encoded with a loss.
    """

    files: int = 0
    unchanged: int = 0
    removed: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    encoded: int = 0
    reused: int = 0
    rows: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.files} files: {self.encoded} items encoded, {self.reused} had a vector, "
            f"{self.unchanged} files unchanged, {self.removed} files removed, "
            f"{len(self.failures)} failures; {self.rows} rows in all"
        )
