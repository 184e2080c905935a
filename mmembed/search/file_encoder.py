"""Turns files into rows and vectors; knows the model and the media, and no index.

    Candidate -> hash -> cut_file -> content_key -> encode what is not known -> FileResult

`corpus` runs it in this process and `ray_files` in the actors of a cluster; both hand the results
to the index in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from mmembed.errors import InputError, MissingDependencyError
from mmembed.search.rows import Row
from mmembed.search.segments import Segment, Segmentation, cut_file
from mmembed.search.summary import Failure
from mmembed.store.content import content_key, hash_file

if TYPE_CHECKING:
    from mmembed.inputs.sandbox import MediaDecoder

__all__ = ["Candidate", "FileEncoder", "FileResult", "ItemEncoder"]

Vectors = dict[str, np.ndarray]


class ItemEncoder(Protocol):
    """The part of `Embedder` that indexing and searching need."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def numerics(self) -> str: ...

    @property
    def embedding_dimension(self) -> int: ...

    @property
    def encode(self) -> Callable[..., Any]: ...


class Candidate(NamedTuple):
    """A file that may have changed.

    Attributes:
        known_hash: of the content that the index has whole, cut in the same way; else empty.
        is_new: the index has nothing of it.
    """

    path: str
    size: int
    mtime_ns: int
    known_hash: str = ""
    is_new: bool = True


@dataclass
class FileResult:
    """What became of a candidate.

    Attributes:
        rows: of the items that have a vector; `vectors` (N, D) are theirs.
        is_unchanged: the content is `known_hash`; there are no rows.
        is_partial: the first rows of a large new file; the last result of the file has all.
        encoded, reused: items that went through the model, and that had a vector already.
    """

    candidate: Candidate
    rows: list[Row] = field(default_factory=list)
    vectors: np.ndarray | None = None
    is_unchanged: bool = False
    is_partial: bool = False
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    encoded: int = 0
    reused: int = 0

    @classmethod
    def failed(cls, candidate: Candidate, code: str, detail: str) -> FileResult:
        failure = Failure(candidate.path, candidate.path, code, detail)
        return cls(candidate, failures=[failure])


@dataclass
class _File:
    """One file on its way."""

    candidate: Candidate
    content_hash: str
    segments: list[Segment]
    keys: list[str]
    warnings: list[str]
    encoded: int = 0

    def has_changed(self) -> bool:
        """Whether the file is no longer the one that was hashed."""
        try:
            status = Path(self.candidate.path).stat()
        except OSError:
            return True
        found = (status.st_size, status.st_mtime_ns)
        return found != (self.candidate.size, self.candidate.mtime_ns)


class FileEncoder:
    """Encodes files with one model.

    Args:
        dimension: of the index; vectors of a model with more are shortened.
        known_vectors: as `Index.known_vectors`.
        batch_items: items in one call of the model.
    """

    def __init__(
        self,
        embedder: ItemEncoder,
        *,
        dimension: int,
        segmentation: Segmentation,
        decoder: MediaDecoder,
        known_vectors: Callable[[Iterable[str]], Vectors],
        batch_items: int,
    ) -> None:
        self.embedder = embedder
        self.dimension = dimension
        self.segmentation = segmentation
        self.decoder = decoder
        self.known_vectors = known_vectors
        self.batch_items = batch_items

    def encode(self, candidates: Iterable[Candidate]) -> Iterator[FileResult]:
        """One result for each candidate, or several for a large new file, as they are done."""
        waiting: list[_File] = []
        num_items = 0
        for candidate in candidates:
            try:
                found = self._cut(candidate)
            except InputError as error:
                found = FileResult.failed(candidate, error.code, error.detail)
            except MissingDependencyError as error:
                found = FileResult.failed(candidate, "unsupported_format", str(error))
            if isinstance(found, FileResult):
                yield found
                continue
            waiting.append(found)
            num_items += len(found.segments)
            if num_items >= self.batch_items:
                yield from self._finish(waiting)
                waiting, num_items = [], 0
        yield from self._finish(waiting)

    def _cut(self, candidate: Candidate) -> _File | FileResult:
        path = Path(candidate.path)
        content_hash = hash_file(path)
        if content_hash == candidate.known_hash:
            return FileResult(candidate, is_unchanged=True)
        notes: list[str] = []
        segments = cut_file(path, self.segmentation, self.decoder, notes)
        keys = [
            content_key(
                segment.item,
                "document",
                numerics=self.embedder.numerics,
                digest=lambda _: content_hash,
            )
            for segment in segments
        ]
        warnings = [f"{candidate.path}: {note}" for note in notes]
        return _File(candidate, content_hash, segments, keys, warnings)

    def _finish(self, files: list[_File]) -> Iterator[FileResult]:
        """Encode what has no vector yet."""
        vectors = dict(self.known_vectors(dict.fromkeys(key for f in files for key in f.keys)))
        wanted: dict[str, tuple[_File, Segment]] = {}
        for file in files:
            for key, segment in zip(file.keys, file.segments, strict=True):
                if key not in vectors and key not in wanted:
                    wanted[key] = (file, segment)
        errors: dict[str, InputError] = {}
        keys = list(wanted)
        for start in range(0, len(keys), self.batch_items):
            chosen = keys[start : start + self.batch_items]
            found, refused = self._encode(chosen, [wanted[key] for key in chosen])
            errors |= refused
            vectors |= found
            for file in files:
                # otherwise whoever kills this loses hours of work on a file of 5,000 pages
                if file.candidate.is_new and len(file.keys) > self.batch_items and found:
                    yield self._result(file, found, {}, is_partial=True)
        for file in files:
            yield self._result(file, vectors, errors)

    def _encode(
        self, keys: list[str], sources: list[tuple[_File, Segment]]
    ) -> tuple[Vectors, dict[str, InputError]]:
        """The vectors of one batch, and the errors of the items that have none, by key."""
        native = self.embedder.embedding_dimension
        vectors, report = self.embedder.encode(
            [segment.item for _, segment in sources],
            role="document",
            on_error="null",
            return_report=True,
            show_progress_bar=False,
            truncate_dim=None if self.dimension == native else self.dimension,
        )
        errors: dict[str, InputError] = {}
        for error in report.errors:
            place = error.index[0] if isinstance(error.index, tuple) else error.index
            errors[keys[place]] = error
        for place, text in report.warnings:
            file, segment = sources[place]
            file.warnings.append(f"{segment.row.id}: {text}")
        changed = {id(file): file.has_changed() for file, _ in sources}
        found: Vectors = {}
        for key, vector, (file, _) in zip(keys, np.asarray(vectors), sources, strict=True):
            if key in errors:
                continue
            if changed[id(file)]:  # the vector may be of other bytes than those in the key
                errors[key] = InputError(
                    "corrupt", "the file changed while it was being indexed; run again"
                )
            elif not np.isfinite(vector).all() or not vector.any():
                errors[key] = InputError(
                    "nonfinite", "the model gave a vector with NaN, infinity or only zeros"
                )
            else:
                found[key] = vector
                file.encoded += 1
        return found, errors

    def _result(
        self,
        file: _File,
        vectors: Vectors,
        errors: dict[str, InputError],
        *,
        is_partial: bool = False,
    ) -> FileResult:
        """The rows of the items whose vectors are there."""
        candidate = file.candidate
        result = FileResult(candidate, is_partial=is_partial)
        kept: list[np.ndarray] = []
        for key, segment in zip(file.keys, file.segments, strict=True):
            if key in vectors:
                kept.append(vectors[key])
                row = replace(
                    segment.row,
                    key=key,
                    content_hash=file.content_hash,
                    size=candidate.size,
                    mtime_ns=candidate.mtime_ns,
                    items_in_file=len(file.segments),
                )
                result.rows.append(row)
            elif key in errors:
                error = errors[key]
                failure = Failure(segment.row.id, candidate.path, error.code, error.detail)
                result.failures.append(failure)
        result.vectors = np.stack(kept) if kept else None
        if not is_partial:
            result.warnings = file.warnings
            result.encoded, result.reused = file.encoded, len(result.rows) - file.encoded
        return result
