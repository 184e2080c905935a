"""Encodes all rows of an index again with another model, behind the running one, and switches.

    index -> row_item -> embedder -> an index beside it -> optimize -> switch

What has been encoded is committed every half minute, so a run that was killed goes on where it
was. Until the switch, which is one atomic step, everybody sees the old index; who opened it
before goes on with it, since their model belongs to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mmembed.errors import ConfigError, InputError, StoreError
from mmembed.search.error_list import local_folder, read_errors, update_errors
from mmembed.search.file_encoder import ItemEncoder
from mmembed.search.generations import make_current, remove_others, space_folder
from mmembed.search.index import Index
from mmembed.search.opening import open_index
from mmembed.search.row_items import row_item
from mmembed.search.rows import Row, dump_row
from mmembed.search.summary import Failure
from mmembed.store.content import content_key, hash_file

__all__ = ["MigrationSummary", "migrate_index"]

_MAX_FAILED_SHARE = 0.5
_TUNED = ("coarse", "exact", "hnsw_ef")  # what `optimize` chose for the vectors of one model


@dataclass
class MigrationSummary:
    """What a migration did.

    Attributes:
        encoded, reused: rows that went through the model, and that had a vector already.
        rows: of the new index.
        failures: rows that it does not have, and why.
    """

    encoded: int = 0
    reused: int = 0
    rows: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.rows} rows in the new space: {self.encoded} encoded, {self.reused} had a "
            f"vector, {len(self.failures)} failures"
        )


def migrate_index(
    address: str | Path,
    *,
    embedder: ItemEncoder,
    dimension: int | None = None,
    model: str | None = None,
    remove_old: bool = False,
    batch_items: int = 256,
    commit_seconds: float = 30.0,
    show_progress_bar: bool = False,
) -> MigrationSummary:
    """Move the index at an address to another model.

    Rows whose file is gone, has changed or cannot be read are listed and left out; indexing the
    folder again takes them up.

    Args:
        dimension: of the new vectors; by default all that the model gives.
        model: where the model can be found again; kept in `Index.settings["model"]`.
        remove_old: delete the old vectors after the switch. Whoever still searches them fails.
        batch_items: rows in one call of the model.

    Raises:
        ConfigError: the index is of this model already, or where it is nothing can be switched.
        StoreError: another process is writing to it; or more than half of the rows failed, which
            leaves the old index in use.
    """
    started = time.monotonic()
    dimension = dimension or embedder.embedding_dimension
    if dimension > embedder.embedding_dimension:
        raise ConfigError(f"{dimension} dimensions; the model has {embedder.embedding_dimension}")
    with contextlib.ExitStack() as stack:
        source = open_index(address)
        stack.callback(source.close)
        if (source.fingerprint, source.dimension) == (embedder.fingerprint, dimension):
            raise ConfigError(f"{address} has this model's vectors already")
        switch = _Switch.of(str(address), source, embedder.fingerprint, dimension)
        target = switch.target
        stack.callback(target.close)
        stack.enter_context(target.writing())
        run = _Run(source, target, embedder, batch_items, commit_seconds)
        advance: Callable[[int], None] = lambda count: None  # noqa: E731
        if show_progress_bar:
            from mmembed.progress import progress_bar

            advance = stack.enter_context(progress_bar("migrating", len(source), unit="rows"))
        run.follow(advance)
        target.optimize()
        # the last look and the switch, while nobody else writes where that can be had
        with source.writing():
            run.follow(lambda count: None)
            summary = run.summary
            if len(summary.failures) > _MAX_FAILED_SHARE * max(len(source), 1):
                first = summary.failures[0]
                raise StoreError(
                    f"{len(summary.failures)} of {len(source)} rows cannot be encoded again, e.g. "
                    f"{first.id}: {first.detail}; is a drive missing? The old index stays in use"
                )
            tuned = {name: target.settings[name] for name in _TUNED if name in target.settings}
            copied = {name: value for name, value in source.settings.items() if name not in _TUNED}
            target.settings = {**copied, **tuned, "model": model}
            target.commit()
            run.list_failures()
            switch.perform(remove_old)
        summary.rows = len(target)
    summary.seconds = time.monotonic() - started
    return summary


@dataclass(frozen=True)
class _Switch:
    """How the new index takes the place of the old one."""

    target: Index
    perform: Callable[[bool], None]

    @classmethod
    def of(cls, address: str, source: Index, fingerprint: str, dimension: int) -> _Switch:
        from mmembed.search.qdrant_index import QdrantIndex

        if isinstance(source, QdrantIndex):
            other = source.sibling(fingerprint=fingerprint, dimension=dimension)
            old = source
            return cls(other, lambda remove: old.replace_by(other, keep=not remove))
        folder = local_folder(address)
        if folder is None:
            raise ConfigError(
                f"{address}: only an index in a folder or in Qdrant can be switched; make a new "
                "one with: mmembed index FOLDER --model MODEL --out ANOTHER_ADDRESS"
            )
        place = space_folder(folder, fingerprint=fingerprint, dimension=dimension)
        kind = source.uri.partition(":")[0]
        place.parent.mkdir(exist_ok=True)
        target = open_index(f"{kind}:{place}", fingerprint=fingerprint, dimension=dimension)

        def perform(remove: bool) -> None:
            make_current(folder, place)
            if remove:
                remove_others(folder)

        return cls(target, perform)


class _Run:
    def __init__(
        self,
        source: Index,
        target: Index,
        embedder: ItemEncoder,
        batch_items: int,
        commit_seconds: float,
    ) -> None:
        self.source = source
        self.target = target
        self.embedder = embedder
        self.batch_items = batch_items
        self.commit_seconds = commit_seconds
        self.instruction = source.settings.get("segmentation", {}).get("instruction")
        self.summary = MigrationSummary()
        self.failed: dict[str, bytes] = {}  # row -> its `_print` when it failed
        self.done = {row.id: _print(row) for row in target.rows()}
        self.committed = time.monotonic()

    def follow(self, advance: Callable[[int], None]) -> None:
        """Make the new index hold what the old one holds now."""
        gone = set(self.done) | set(self.failed)
        for rows in _batches(self.source.rows(), self.batch_items):
            gone.difference_update(row.id for row in rows)
            self._take([row for row in rows if not self._is_known(row)])
            advance(len(rows))
            if time.monotonic() - self.committed > self.commit_seconds:
                self._commit()
        self._forget(gone)
        self._commit()

    def list_failures(self) -> None:
        """In the new index's `errors.jsonl`, behind what the old one's had."""
        old, new = local_folder(self.source.uri), local_folder(self.target.uri)
        if old is not None and new is not None:
            known = read_errors(old / "errors.jsonl")
            update_errors(new / "errors.jsonl", Path("/"), [*known, *self.summary.failures])

    def _is_known(self, row: Row) -> bool:
        return _print(row) in (self.done.get(row.id), self.failed.get(row.id))

    def _commit(self) -> None:
        self.target.commit()
        self.committed = time.monotonic()

    def _forget(self, names: Iterable[str]) -> None:
        names = set(names)
        self.target.delete([name for name in names if name in self.done])
        for name in names:
            self.done.pop(name, None)
            self.failed.pop(name, None)
        self.summary.failures = [each for each in self.summary.failures if each.id not in names]

    def _take(self, rows: list[Row]) -> None:
        self._forget(row.id for row in rows)
        keyed: list[Row] = []
        for row in rows:
            try:
                keyed.append(replace(row, key=self._key(row)))
            except InputError as error:
                self._fail(row, error)
        known = self.target.known_vectors(row.key for row in keyed)
        reused = len([row for row in keyed if row.key in known])
        first = {row.key: row for row in reversed(keyed) if row.key not in known}
        errors = self._encode(list(first.values()), known)
        good = [row for row in keyed if row.key in known]
        for row in keyed:
            if row.key in errors:
                self._fail(row, errors[row.key])
        if good:
            self.target.upsert(good, np.array([known[row.key] for row in good]))
        self.done |= {row.id: _print(row) for row in good}
        self.summary.encoded += len(good) - reused
        self.summary.reused += reused

    def _key(self, row: Row) -> str:
        item = row_item(row, instruction=self.instruction)
        return content_key(
            item,
            "document",
            numerics=self.embedder.numerics,
            digest=lambda path: row.content_hash or hash_file(path),
        )

    def _encode(self, rows: list[Row], known: dict[str, np.ndarray]) -> dict[str, InputError]:
        """Adds the vectors of these rows to `known`; the errors of the others, by key."""
        if not rows:
            return {}
        native = self.embedder.embedding_dimension
        vectors, report = self.embedder.encode(
            [row_item(row, instruction=self.instruction) for row in rows],
            role="document",
            on_error="null",
            return_report=True,
            show_progress_bar=False,
            truncate_dim=None if self.target.dimension == native else self.target.dimension,
        )
        errors: dict[str, InputError] = {}
        for error in report.errors:
            place = error.index[0] if isinstance(error.index, tuple) else error.index
            errors[rows[place].key] = error
        for row, vector in zip(rows, np.asarray(vectors), strict=True):
            if row.key in errors:
                continue
            if _has_changed(row):
                detail = "the file changed since it was indexed; index its folder again"
                errors[row.key] = InputError("corrupt", detail)
            elif not np.isfinite(vector).all() or not vector.any():
                detail = "the model gave a vector with NaN, infinity or only zeros"
                errors[row.key] = InputError("nonfinite", detail)
            else:
                known[row.key] = vector
        return errors

    def _fail(self, row: Row, error: InputError) -> None:
        self.failed[row.id] = _print(row)
        self.summary.failures.append(Failure(row.id, row.path, error.code, error.detail))


def _batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while batch := list(itertools.islice(rows, size)):
        yield batch


def _print(row: Row) -> bytes:
    """Names everything of a row but its vector."""
    return hashlib.sha256(dump_row(replace(row, key=""))).digest()[:16]


def _has_changed(row: Row) -> bool:
    """Whether the file is not the one that was indexed; a passage lies in the row itself."""
    if row.kind == "text" or not row.content_hash:
        return False
    try:
        status = Path(row.path).stat()
        if (status.st_size, status.st_mtime_ns) == (row.size, row.mtime_ns):
            return False
        return hash_file(Path(row.path)) != row.content_hash
    except (OSError, InputError):
        return True
