"""What is done to the Lance table itself: made, merged into, indexed; conflicts are tried again.

lance_index -> create_table, merge_rows, ensure_words_index, build_vector_index
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.errors import MissingDependencyError, StoreError
from mmembed.search.lance_filters import any_of_text
from mmembed.search.lance_rows import row_table, table_schema
from mmembed.search.rows import Row

__all__ = [
    "METHOD",
    "TABLE",
    "build_vector_index",
    "bytes_in",
    "connect",
    "create_table",
    "drop_vector_index",
    "ensure_words_index",
    "merge_rows",
    "open_table",
    "retried",
    "search_vector_index",
    "search_words_index",
    "tidy",
    "vector_index",
]

logger = logging.getLogger(__name__)

METHOD = "IVF_HNSW_SQ"
TABLE = "rows"
_VECTORS, _WORDS = "vector_idx", "words_idx"
_ROWS_IN_PARTITION = 1_000_000
_MAX_UNINDEXED, _MAX_SMALL_FILES = 20_000, 100
_WRITE_TRIES = 8
_RETRIABLE = ("conflict", "concurrent", "not found")


def connect(place: Path | str, owner: str) -> Any:
    """The database in a folder, which is made, or at an address.

    Raises:
        MissingDependencyError: lancedb is not installed. StoreError: it refuses.
    """
    try:
        import lancedb
    except ImportError:
        raise MissingDependencyError("lancedb", "search") from None
    try:
        return lancedb.connect(str(place.absolute()) if isinstance(place, Path) else place)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"cannot open {owner}: {error}") from error


def open_table(database: Any, owner: str) -> Any:
    """The newest version; None where there is no table. Raises StoreError."""
    try:
        return database.open_table(TABLE)
    except (OSError, RuntimeError, ValueError) as error:
        if "was not found" in str(error):
            return None
        raise StoreError(
            f"{owner} cannot be opened: {error}. Restore it or index the folder again"
        ) from error


def create_table(database: Any, fingerprint: str, dimension: int, owner: str) -> Any:
    """An empty table, or the one that another process has just made. Raises StoreError."""
    try:
        try:
            table = database.create_table(TABLE, schema=table_schema(fingerprint, dimension))
        except (RuntimeError, ValueError) as error:
            reason = str(error).lower()
            if "exists" not in reason and "conflict" not in reason:
                raise
            table = database.open_table(TABLE)
        ensure_words_index(table)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"cannot make {owner}: {error}") from error
    return table


def merge_rows(
    table: Any, rows: Sequence[Row], vectors: np.ndarray, deleted: Collection[str]
) -> None:
    """Replace or add rows by id and delete others, in one transaction."""

    def merge() -> None:
        builder = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        if deleted:
            builder = builder.when_not_matched_by_source_delete(any_of_text("id", deleted))
        builder.execute(row_table(rows, vectors, table.schema))

    retried(table, merge)


def ensure_words_index(table: Any) -> None:
    """Without it Lance finds no words at all; rows that it lacks are scanned."""
    from lancedb.index import FTS

    # the column holds tokens already
    config = FTS(
        base_tokenizer="whitespace",
        lower_case=False,
        stem=False,
        remove_stop_words=False,
        ascii_folding=False,
        max_token_length=None,
    )

    def create() -> None:
        if not _has_index(table, _WORDS):
            table.create_index("words", config=config, name=_WORDS)

    retried(table, create)


def vector_index(table: Any) -> int | None:
    """How many rows the approximate index lacks; None where there is no such index."""
    if not _has_index(table, _VECTORS):
        return None
    unindexed: int = table.index_stats(_VECTORS).num_unindexed_rows
    return unindexed


def build_vector_index(table: Any) -> None:
    """From all rows, in place of the present one."""
    from lancedb.index import HnswSq

    config = HnswSq(
        distance_type="dot",
        num_partitions=_num_partitions(table.count_rows()),
        m=20,
        ef_construction=300,
    )
    retried(
        table,
        lambda: table.create_index("vector", config=config, name=_VECTORS, replace=True),
    )


def drop_vector_index(table: Any) -> None:
    """Nothing happens where there is none."""

    def drop() -> None:
        if _has_index(table, _VECTORS):
            table.drop_index(_VECTORS)

    retried(table, drop)


def tidy(table: Any, keep: timedelta) -> None:
    """What a long run of small commits needs now and then: rows that the index of words lacks are
    scanned at each search, and every commit adds a file. Former versions stay for `keep`."""
    try:
        words = table.index_stats(_WORDS)
        files = table.stats()["fragment_stats"]["num_small_fragments"]
        # twice the rows before the next time: all times together cost as much as the last
        most = max(_MAX_UNINDEXED, words.num_indexed_rows)
        if words.num_unindexed_rows > most or files > _MAX_SMALL_FILES:
            retried(table, lambda: table.optimize(cleanup_older_than=keep))
    except (OSError, RuntimeError) as error:  # the rows are committed
        logger.warning("%s was not tidied: %s", table.uri, error)


def search_vector_index(table: Any, query: np.ndarray, k: int, condition: str | None) -> np.ndarray:
    """Addresses of about the k nearest rows; those that the index lacks are compared too."""
    search = (
        table.search(query, vector_column_name="vector")
        .distance_type("dot")
        .nprobes(_num_partitions(table.count_rows()))
        .ef(max(300, 4 * k))
        .refine_factor(4)
        .limit(k)
        .select(["kind", "_distance"])
        .with_row_id(True)
    )
    if condition is not None:
        search = search.where(condition, prefilter=True)
    return np.asarray(search.to_arrow()["_rowid"]).astype(np.int64)


def search_words_index(
    table: Any, words: str, k: int, condition: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Addresses and scores of the k best rows and all that equal the last of them."""
    limit = k + 16
    while True:
        search = table.search(words, query_type="fts", fts_columns="words").limit(limit)
        if condition is not None:
            search = search.where(condition, prefilter=True)
        found = search.select(["kind", "_score"]).with_row_id(True).to_arrow()
        scores = np.asarray(found["_score"]).astype(np.float64)
        if len(scores) < limit or scores[-1] < scores[k - 1]:
            kept = scores >= scores[min(k, len(scores)) - 1] if len(scores) else slice(None)
            return np.asarray(found["_rowid"]).astype(np.int64)[kept], scores[kept]
        limit *= 4


def bytes_in(folder: Path) -> int:
    """What the files below a folder take, while others may remove some."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def retried(table: Any, action: Callable[[], Any]) -> None:
    """Again, from the newest version on, where another writer was faster or `optimize` of
    another process removed the version that was read."""
    for attempt in range(_WRITE_TRIES):
        try:
            action()
            return
        except RuntimeError as error:
            reason = str(error).lower()
            if attempt == _WRITE_TRIES - 1 or not any(word in reason for word in _RETRIABLE):
                raise
            time.sleep(random.uniform(0.02, 0.1) * 2**attempt)
            table.checkout_latest()


def _has_index(table: Any, name: str) -> bool:
    return any(index.name == name for index in table.list_indices())


def _num_partitions(count: int) -> int:
    """Few, for all of them are searched: a filter leaves little in each of many."""
    return max(1, count // _ROWS_IN_PARTITION)
