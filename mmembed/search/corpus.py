"""Keeps an index equal to a folder of pictures, videos, PDFs and texts.

    folder -> walk -> segments.cut_file -> content_key -> store.missing -> encode -> index

Only what is new is encoded: a file whose size and date are unchanged is not opened, one that
moved or was touched is recognised by its hash, and vectors are kept by content. Whatever stops a
run (Ctrl-C, a full disk, a power cut), the index stays valid and the next run goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mmembed.errors import ConfigError, InputError, MissingDependencyError
from mmembed.search.exact_index import ExactIndex
from mmembed.search.rows import Row
from mmembed.search.segments import Segment, Segmentation, cut_file
from mmembed.search.summary import Failure, IndexSummary, Progress
from mmembed.search.walk import Walk, walk
from mmembed.store.content import content_key, hash_file
from mmembed.store.durable import write_atomically
from mmembed.store.vectors import check_space

if TYPE_CHECKING:
    from mmembed.inputs.sandbox import MediaDecoder

__all__ = ["Failure", "IndexSummary", "ItemEncoder", "Progress", "index_folder"]

logger = logging.getLogger(__name__)

_COMMIT_SECONDS = 60.0


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


def index_folder(
    folder: Path | str,
    *,
    embedder: ItemEncoder,
    index: ExactIndex,
    segmentation: Segmentation | None = None,
    decoder: MediaDecoder | None = None,
    batch_items: int = 256,
    follow_links: bool = False,
    check_content: bool = False,
    model: str | None = None,
    show_progress_bar: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> IndexSummary:
    """Make the index hold exactly what `folder` holds; other folders' rows stay.

    Args:
        decoder: opens media to count pages and seconds; a new one by default.
        batch_items: items in one call of the model and one shard of the store; what a kill costs.
        follow_links: also enter linked folders, each once.
        check_content: hash every file, also those whose size and date are unchanged.
        model: where the model can be found again; kept in `index.settings["model"]`.

    Raises:
        ConfigError: `folder` is not a folder.
        SpaceMismatchError: the index belongs to another model.
        StoreError: another process is writing to the index, or the disk refuses.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise ConfigError(f"{folder} is not a folder")
    check_space(
        f"the index {index.folder}",
        (index.fingerprint, index.dimension),
        (embedder.fingerprint, index.dimension),
    )
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        if decoder is None:
            from mmembed.inputs.sandbox import MediaDecoder

            decoder = stack.enter_context(MediaDecoder())
        stack.enter_context(index.writing())
        if model is not None:
            index.settings["model"] = model
        if show_progress_bar:
            on_progress = _progress_bar(stack, on_progress)
        run = _Run(
            root, embedder, index, segmentation or Segmentation(), decoder, batch_items, on_progress
        )
        try:
            run.synchronise(follow_links=follow_links, check_content=check_content)
        finally:
            # also after Ctrl-C: files that are done count
            run.commit()
    run.summary.seconds = time.monotonic() - started
    return run.summary


def _progress_bar(
    stack: contextlib.ExitStack, also: Callable[[Progress], None] | None
) -> Callable[[Progress], None]:
    """A callback that draws a bar from the first report on, when the number of files is known."""
    from mmembed.progress import progress_bar

    bars: list[Callable[[int], None]] = []
    shown = 0

    def show(progress: Progress) -> None:
        nonlocal shown
        if not bars:
            bar = progress_bar("indexing", progress.files_total, unit="files")
            bars.append(stack.enter_context(bar))
        bars[0](progress.files_done - shown)
        shown = progress.files_done
        if also is not None:
            also(progress)

    return show


@dataclass
class _File:
    """One file on its way into the index."""

    path: Path
    size: int
    mtime_ns: int
    content_hash: str = ""
    segments: list[Segment] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def has_changed(self) -> bool:
        """Whether the file is no longer the one that was hashed."""
        try:
            status = self.path.stat()
        except OSError:
            return True
        return (status.st_size, status.st_mtime_ns) != (self.size, self.mtime_ns)


class _Run:
    def __init__(
        self,
        root: Path,
        embedder: ItemEncoder,
        index: ExactIndex,
        segmentation: Segmentation,
        decoder: MediaDecoder,
        batch_items: int,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.root = root
        self.embedder = embedder
        self.index = index
        self.segmentation = segmentation
        self.decoder = decoder
        self.batch_items = batch_items
        self.on_progress = on_progress
        self.summary = IndexSummary()
        self.done = 0
        self.committed = time.monotonic()
        self.known: dict[str, list[Row]] = {}
        for row in index.rows():
            self.known.setdefault(row.path, []).append(row)

    def synchronise(self, *, follow_links: bool, check_content: bool) -> None:
        found = walk(self.root, skip=self.index.folder.resolve(), follow_links=follow_links)
        self.summary.files = len(found.files)
        self.summary.ignored = found.ignored
        for folder, reason in found.unread.items():
            self._fail(folder, InputError("permission", f"cannot be listed: {reason}"))
        self._remove_lost(found)
        waiting: list[_File] = []
        self._report()
        for path in found.files:
            try:
                file = self._examine(path, check_content)
            except (InputError, MissingDependencyError) as error:
                self._forget(str(path))
                self._fail(path, error)
                file = None
            if file is None:
                self.done += 1
                self._report()
                continue
            waiting.append(file)
            if sum(len(each.segments) for each in waiting) >= self.batch_items:
                self._finish(waiting)
                waiting = []
        self._finish(waiting)

    def commit(self) -> None:
        self.index.commit()
        self.committed = time.monotonic()
        self.summary.rows = len(self.index)
        lines = [json.dumps(asdict(failure)) for failure in self.summary.failures]
        payload = "".join(line + "\n" for line in lines).encode("ascii")
        write_atomically(self.index.folder / "errors.jsonl", payload)

    def _remove_lost(self, found: Walk) -> None:
        present = {str(path) for path in found.files}
        for name in list(self.known):
            path = Path(name)
            if (
                name not in present
                and path.is_relative_to(self.root)
                # a folder that cannot be listed today is no reason to forget its files
                and not any(path.is_relative_to(folder) for folder in found.unread)
            ):
                self._forget(name)
                self.summary.removed += 1

    def _examine(self, path: Path, check_content: bool) -> _File | None:
        """The file with its items, or None when its rows are right as they are."""
        try:
            status = path.stat()
        except OSError:
            hash_file(path)  # raises the error with its reason
            raise
        file = _File(path, status.st_size, status.st_mtime_ns)
        rows = self.known.get(str(path), [])
        is_complete = bool(rows) and (
            (rows[0].items_in_file, rows[0].cut) == (len(rows), self.segmentation.name)
        )
        if is_complete and not check_content:
            if (rows[0].size, rows[0].mtime_ns) == (file.size, file.mtime_ns):
                self.summary.unchanged += 1
                return None
        file.content_hash = hash_file(path)
        if is_complete and rows[0].content_hash == file.content_hash:
            self.index.upsert(
                [replace(row, size=file.size, mtime_ns=file.mtime_ns) for row in rows]
            )
            self.summary.unchanged += 1
            return None
        file.segments = cut_file(path, self.segmentation, self.decoder)
        file.keys = [
            content_key(
                segment.item,
                "document",
                numerics=self.embedder.numerics,
                digest=lambda _: file.content_hash,
            )
            for segment in file.segments
        ]
        return file

    def _finish(self, files: list[_File]) -> None:
        """Encode what has no vector yet, then replace the rows of these files."""
        wanted: dict[str, tuple[_File, Segment]] = {}
        for file in files:
            for key, segment in zip(file.keys, file.segments, strict=True):
                if key in self.index.store or key in wanted:
                    self.summary.reused += 1
                else:
                    wanted[key] = (file, segment)
        errors: dict[str, InputError] = {}
        keys = list(wanted)
        for start in range(0, len(keys), self.batch_items):
            chosen = keys[start : start + self.batch_items]
            errors |= self._encode(chosen, [wanted[key] for key in chosen])
            self._report()
        for file in files:
            self._forget(str(file.path))
            self.index.upsert(self._rows(file, errors))
            self.done += 1
        self._report()
        if time.monotonic() - self.committed > _COMMIT_SECONDS:
            self.commit()

    def _encode(
        self, keys: list[str], sources: list[tuple[_File, Segment]]
    ) -> dict[str, InputError]:
        """Encode and store one batch; the errors of the items that failed, by key."""
        native = self.embedder.embedding_dimension
        vectors, report = self.embedder.encode(
            [segment.item for _, segment in sources],
            role="document",
            on_error="null",
            return_report=True,
            show_progress_bar=False,
            truncate_dim=None if self.index.dimension == native else self.index.dimension,
        )
        errors: dict[str, InputError] = {}
        for error in report.errors:
            place = error.index[0] if isinstance(error.index, tuple) else error.index
            errors[keys[place]] = error
        for place, text in report.warnings:
            self.summary.warnings.append(f"{sources[place][1].row.id}: {text}")
        for place, (file, _) in enumerate(sources):
            if keys[place] in errors:
                continue
            if file.has_changed():  # its vector may be of other bytes than those in the key
                errors[keys[place]] = InputError(
                    "corrupt", "the file changed while it was being indexed; run again"
                )
            elif not np.isfinite(vectors[place]).all() or not vectors[place].any():
                errors[keys[place]] = InputError(
                    "nonfinite", "the model gave a vector with NaN, infinity or only zeros"
                )
        kept = [place for place, key in enumerate(keys) if key not in errors]
        self.index.store.add([keys[place] for place in kept], np.asarray(vectors)[kept])
        self.summary.encoded += len(kept)
        return errors

    def _rows(self, file: _File, errors: dict[str, InputError]) -> list[Row]:
        rows = []
        for key, segment in zip(file.keys, file.segments, strict=True):
            if key in errors:
                self._fail(file.path, errors[key], segment.row.id)
                continue
            rows.append(
                replace(
                    segment.row,
                    key=key,
                    content_hash=file.content_hash,
                    size=file.size,
                    mtime_ns=file.mtime_ns,
                    items_in_file=len(file.segments),
                )
            )
        return rows

    def _forget(self, path: str) -> None:
        self.index.delete(row.id for row in self.known.pop(path, []))

    def _fail(
        self, path: Path, error: InputError | MissingDependencyError, name: str | None = None
    ) -> None:
        if isinstance(error, MissingDependencyError):
            error = InputError("unsupported_format", str(error))
        failure = Failure(name or str(path), str(path), error.code, error.detail)
        logger.info("%s: %s: %s", failure.id, failure.code, failure.detail)
        self.summary.failures.append(failure)

    def _report(self) -> None:
        if self.on_progress is not None:
            self.on_progress(Progress(self.done, self.summary.files, self.summary.encoded))
