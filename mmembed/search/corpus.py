"""Keeps an index equal to a folder of pictures, videos, PDFs and texts.

    folder -> walk -> file_encoder (here, or ray_files on a cluster) -> FileResult -> index

Only what is new is encoded: a file whose size and date are unchanged is not opened, one that
moved or was touched is recognised by its hash, and vectors are found by content. Whatever stops a
run (Ctrl-C, a full disk, a power cut), the index holds whole files of the last commit, and the
next run goes on from there.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmembed.errors import ConfigError
from mmembed.search.error_list import local_folder, update_errors
from mmembed.search.file_encoder import Candidate, FileEncoder, FileResult, ItemEncoder, Vectors
from mmembed.search.filters import Under
from mmembed.search.index import Index
from mmembed.search.rows import Row
from mmembed.search.segments import Segmentation
from mmembed.search.summary import Failure, IndexSummary, Progress
from mmembed.search.walk import Walk, walk
from mmembed.store.vectors import check_space

if TYPE_CHECKING:
    from mmembed.inputs.sandbox import MediaDecoder
    from mmembed.search.ray_files import RayWorkers

__all__ = ["Failure", "IndexSummary", "ItemEncoder", "Progress", "index_folder"]

logger = logging.getLogger(__name__)

_MAX_SPARE = 20_000  # vectors of replaced rows that are kept for files that took their content


def index_folder(
    folder: Path | str,
    *,
    embedder: ItemEncoder,
    index: Index,
    segmentation: Segmentation | None = None,
    decoder: MediaDecoder | None = None,
    batch_items: int = 256,
    commit_seconds: float = 30.0,
    commit_rows: int = 10_000,
    follow_links: bool = False,
    check_content: bool = False,
    settle_seconds: float = 0.0,
    model: str | None = None,
    errors: Path | str | None = None,
    ray: RayWorkers | None = None,
    show_progress_bar: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> IndexSummary:
    """Make the index hold exactly what `folder` holds; other folders' rows stay.

    Args:
        segmentation: how files are cut; None takes that of the index's last run.
        decoder: opens media to count pages and seconds; a new one by default.
        batch_items: items in one call of the model.
        commit_seconds, commit_rows: how often the index is made durable: what a kill costs.
        follow_links: also enter linked folders, each once.
        check_content: hash every file, also those whose size and date are unchanged.
        settle_seconds: files changed less than this ago are left for a later run.
        model: where the model can be found again; kept in `index.settings["model"]`.
        errors: the file that lists what is not in the index and why; by default `errors.jsonl`
            in the folder of an index that has one.
        ray: encode on a cluster instead of in this process; `embedder` then only names the space.

    Raises:
        ConfigError: `folder` is not a folder.
        SpaceMismatchError: the index belongs to another model.
        StoreError: another process is writing to the index, or the disk refuses.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise ConfigError(f"{folder} is not a folder")
    check_space(
        f"the index {index.uri}",
        (index.fingerprint, index.dimension),
        (embedder.fingerprint, index.dimension),
    )
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.enter_context(index.writing())
        if segmentation is None:
            segmentation = Segmentation.of(index.settings.get("segmentation", {}))
        folders = {*index.settings.get("folders", ()), str(root)}
        index.settings |= {"folders": sorted(folders), "segmentation": asdict(segmentation)}
        if model is not None:
            index.settings["model"] = model
        if show_progress_bar:
            on_progress = _progress_bar(stack, on_progress)
        own = local_folder(index.uri)
        summary = IndexSummary()
        run = _Run(
            root=root,
            index=index,
            segmentation=segmentation,
            summary=summary,
            errors=Path(errors) if errors else own / "errors.jsonl" if own else None,
            flush_rows=batch_items,
            commit_seconds=commit_seconds,
            commit_rows=commit_rows,
            on_progress=on_progress,
        )
        encode: Callable[[Iterable[Candidate]], Iterator[FileResult]]
        if ray is not None:
            from mmembed.search.ray_files import RayFiles

            encode = RayFiles(ray, index, segmentation, batch_items).encode
        else:
            if decoder is None:
                from mmembed.inputs.sandbox import MediaDecoder

                decoder = stack.enter_context(MediaDecoder())
            encode = FileEncoder(
                embedder,
                dimension=index.dimension,
                segmentation=segmentation,
                decoder=decoder,
                known_vectors=run.known_vectors,
                batch_items=batch_items,
            ).encode
        found = walk(root, skip=own and own.resolve(), follow_links=follow_links)
        try:
            run.synchronise(
                found, encode, check_content=check_content, settle_seconds=settle_seconds
            )
        finally:
            # also after Ctrl-C: files that are done count
            run.commit()
            summary.seconds = time.monotonic() - started
    return summary


@dataclass
class _Known:
    """What the index has of a file."""

    size: int
    mtime_ns: int
    content_hash: str
    items_in_file: int
    cut: str
    ids: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    is_mixed: bool = False

    def add(self, row: Row) -> None:
        self.ids.append(row.id)
        self.keys.append(row.key)
        ours = (self.size, self.mtime_ns, self.content_hash, self.items_in_file, self.cut)
        of_row = (row.size, row.mtime_ns, row.content_hash, row.items_in_file, row.cut)
        self.is_mixed = self.is_mixed or ours != of_row

    def is_whole(self, cut: str) -> bool:
        """Whether every item of one content is there, cut in this way."""
        return not self.is_mixed and self.cut == cut and self.items_in_file == len(self.ids)


@dataclass
class _Run:
    """One run: decides which files to look at, and hands the results to the index."""

    root: Path
    index: Index
    segmentation: Segmentation
    summary: IndexSummary
    errors: Path | None
    flush_rows: int
    commit_seconds: float
    commit_rows: int
    on_progress: Callable[[Progress], None] | None

    def __post_init__(self) -> None:
        self.done = 0
        self.known: dict[str, _Known] = {}
        self.spare: Vectors = {}
        self.pending: list[FileResult] = []
        self.num_pending = 0
        self.num_uncommitted = 0
        self.committed = time.monotonic()
        for row in self.index.rows(where=Under(str(self.root))):
            values = (row.size, row.mtime_ns, row.content_hash, row.items_in_file, row.cut)
            self.known.setdefault(row.path, _Known(*values)).add(row)

    def synchronise(
        self,
        found: Walk,
        encode: Callable[[Iterable[Candidate]], Iterator[FileResult]],
        *,
        check_content: bool,
        settle_seconds: float,
    ) -> None:
        self.summary.files = len(found.files)
        self.summary.ignored = found.ignored
        for folder, reason in found.unread.items():
            self._fail(folder, "permission", f"cannot be listed: {reason}")
        self._report()
        for result in encode(self._candidates(found.files, check_content, settle_seconds)):
            self._take(result)
        # only now: what moved was found by the vectors of the files that are gone
        self._remove_lost(found)

    def known_vectors(self, keys: Iterable[str]) -> Vectors:
        """The vectors of these keys that the index has, or had in this run."""
        self._flush()
        keys = list(keys)
        return {
            **{key: self.spare[key] for key in keys if key in self.spare},
            **self.index.known_vectors(keys),
        }

    def commit(self) -> None:
        self._flush()
        self.index.commit()
        self.committed, self.num_uncommitted = time.monotonic(), 0
        self.summary.rows = len(self.index)
        self.summary.failures.sort(key=lambda failure: failure.id)
        if self.errors is not None:
            update_errors(self.errors, self.root, self.summary.failures)

    def _candidates(
        self, files: list[Path], check_content: bool, settle_seconds: float
    ) -> Iterator[Candidate]:
        """The files that may have changed; the others are done."""
        for path in files:
            name = str(path)
            known = self.known.get(name)
            try:
                name.encode()
                status = path.stat()
            except UnicodeEncodeError:
                self._fail(path, "invalid_text", "its name is not UTF-8; rename it")
            except OSError:
                # whoever opens it says why
                yield Candidate(name, 0, 0, is_new=known is None)
                continue
            else:
                is_whole = known is not None and known.is_whole(self.segmentation.name)
                place = (status.st_size, status.st_mtime_ns)
                if abs(time.time() - status.st_mtime) < settle_seconds:
                    self.summary.postponed.append(name)
                elif is_whole and not check_content and place == (known.size, known.mtime_ns):  # type: ignore[union-attr]
                    self.summary.unchanged += 1
                else:
                    content_hash = known.content_hash if known is not None and is_whole else ""
                    yield Candidate(name, *place, content_hash, is_new=known is None)
                    continue
            self.done += 1
            self._report()

    def _take(self, result: FileResult) -> None:
        self.pending.append(result)
        self.num_pending += max(1, len(result.rows))
        if not result.is_partial:
            self.summary.add(result)
            for failure in result.failures:
                logger.info("%s: %s: %s", failure.id, failure.code, failure.detail)
            self.done += 1
        if self.num_pending >= self.flush_rows:
            self._flush()
        is_late = time.monotonic() - self.committed > self.commit_seconds
        if self.num_uncommitted and (is_late or self.num_uncommitted >= self.commit_rows):
            self.commit()
        self._report()

    def _flush(self) -> None:
        """Hand over what is pending; harmless when it was interrupted and is called again."""
        if not self.pending:
            return
        rows: dict[str, Row] = {}
        vectors: Vectors = {}
        stale: list[str] = []
        replaced: list[str] = []
        touched: dict[str, Candidate] = {}
        for result in self.pending:
            known = self.known.get(result.candidate.path)
            if result.is_unchanged:
                assert known is not None
                touched.update(dict.fromkeys(known.ids, result.candidate))
                continue
            for number, row in enumerate(result.rows):
                assert result.vectors is not None
                rows[row.id], vectors[row.id] = row, result.vectors[number]
            if known is not None:
                ids = {row.id for row in result.rows}
                stale += [name for name in known.ids if name not in ids]
                replaced += known.keys
        if replaced:
            # the content may have gone to a file that is yet to come
            self.spare |= self.index.known_vectors(replaced)
            for key in list(self.spare)[:-_MAX_SPARE]:
                del self.spare[key]
        self.index.delete(stale)
        if rows:
            self.index.upsert(list(rows.values()), np.stack(list(vectors.values())))
        if touched:
            again = self.index.get(list(touched))
            self.index.upsert([_dated(row, touched[row.id]) for row in again])
        for result in self.pending:
            self.known.pop(result.candidate.path, None)
        self.num_uncommitted += len(rows) + len(stale) + len(touched)
        self.pending, self.num_pending = [], 0

    def _remove_lost(self, found: Walk) -> None:
        present = {str(path) for path in found.files}
        lost = [name for name in self.known if name not in present]
        # a folder that cannot be listed today is no reason to forget its files
        lost = [
            name
            for name in lost
            if not any(Path(name).is_relative_to(folder) for folder in found.unread)
        ]
        if lost and found.is_empty:
            self._fail(
                self.root,
                "empty",
                f"nothing is in it, and the index has {len(lost):,} files of it, which stay; is "
                "its drive mounted?",
            )
            return
        for name in lost:
            self.num_uncommitted += self.index.delete(self.known.pop(name).ids)
        self.summary.removed += len(lost)

    def _fail(self, path: Path, code: str, detail: str) -> None:
        failure = Failure(str(path), str(path), code, detail)
        logger.info("%s: %s: %s", failure.id, code, detail)
        self.summary.failures.append(failure)

    def _report(self) -> None:
        if self.on_progress is not None:
            summary = self.summary
            self.on_progress(
                Progress(self.done, summary.files, summary.encoded, summary.bytes_read)
            )


def _dated(row: Row, candidate: Candidate) -> Row:
    return replace(row, size=candidate.size, mtime_ns=candidate.mtime_ns)


def _progress_bar(
    stack: contextlib.ExitStack, also: Callable[[Progress], None] | None
) -> Callable[[Progress], None]:
    """A callback that draws a bar from the first report on, when the number of files is known."""
    from mmembed.progress import progress_bar

    bars: list[Callable[[int], None]] = []
    shown = 0
    text = ""
    started = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal shown, text
        seconds = max(time.monotonic() - started, 1e-3)
        items, megabytes = progress.items_encoded / seconds, progress.bytes_read / seconds / 1e6
        text = f"{progress.items_encoded:,} items {items:.1f}/s {megabytes:.1f} MB/s"
        if not bars:
            bar = progress_bar("indexing", progress.files_total, unit="files", report=lambda: text)
            bars.append(stack.enter_context(bar))
        bars[0](progress.files_done - shown)
        shown = progress.files_done
        if also is not None:
            also(progress)

    return show
