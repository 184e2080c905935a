"""Keeps an index equal to a folder while files come and go: `mmembed index FOLDER --watch`.

    watchfiles -> quiet for a moment -> corpus.index_folder -> again

Changes are only a reason to look: each run compares the whole folder with the index, so that no
lost or merged event can leave the two apart. A file that is still growing waits for the run after
it has been left alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmembed.errors import ConfigError, MissingDependencyError, StoreError
from mmembed.search.corpus import index_folder
from mmembed.search.error_list import local_folder
from mmembed.search.file_encoder import ItemEncoder
from mmembed.search.index import Index
from mmembed.search.summary import IndexSummary

__all__ = ["watch_folder"]

logger = logging.getLogger(__name__)

_TICK_MILLISECONDS = 500
_RETRY_SECONDS = 10.0


def watch_folder(
    folder: Path | str,
    *,
    embedder: ItemEncoder,
    index: Index,
    quiet_seconds: float = 2.0,
    poll_seconds: float | None = None,
    stop: threading.Event | None = None,
    on_run: Callable[[IndexSummary], None] | None = None,
    **options: Any,
) -> None:
    """Index the folder, then again whenever something in it has changed, until Ctrl-C.

    Args:
        quiet_seconds: how long a file must be left alone before it is read.
        poll_seconds: look at all files so often instead of asking the system, which hears
            nothing of what other machines write to a network drive.
        stop: ends the watch too, when it is set.
        on_run: is told what each run did.
        options: of `index_folder`.

    Raises:
        ConfigError: `folder` is not a folder (any more). MissingDependencyError: watchfiles.
    """
    try:
        import watchfiles
    except ImportError:
        raise MissingDependencyError("watchfiles", "search") from None
    root = Path(folder).resolve()
    if not root.is_dir():
        raise ConfigError(f"{folder} is not a folder")
    own = local_folder(index.uri)
    own = own and own.resolve()

    def concerns_us(_: Any, name: str) -> bool:
        path = Path(name)
        if own is not None and path.is_relative_to(own):
            return False
        below = path.relative_to(root).parts if path.is_relative_to(root) else path.parts
        return not any(part.startswith(".") for part in below)

    # events that come while a run is under way are kept for the next one
    changes = watchfiles.watch(
        root,
        watch_filter=concerns_us,
        rust_timeout=_TICK_MILLISECONDS,
        yield_on_timeout=True,
        stop_event=stop,
        force_polling=poll_seconds is not None,
        poll_delay_ms=round(1000 * (poll_seconds or 1)),
        ignore_permission_denied=True,
    )
    due: float | None = 0.0
    rested = 0.0
    try:
        # listening begins before the first run: nothing falls in between
        while (found := next(changes, None)) is not None:
            now = time.monotonic()
            if found:
                due = now
            if due is not None and now >= max(due, rested):
                due = _run(root, quiet_seconds, on_run, embedder, index, options)
                # while a large file grows, half of the time goes into looking
                rested = 2 * time.monotonic() - now
    except KeyboardInterrupt:
        logger.info("stopped watching %s", root)
    finally:
        changes.close()


def _run(
    root: Path,
    quiet_seconds: float,
    on_run: Callable[[IndexSummary], None] | None,
    embedder: ItemEncoder,
    index: Index,
    options: dict[str, Any],
) -> float | None:
    """Index once; returns when to do so again although nothing more may change."""
    try:
        summary = index_folder(
            root, embedder=embedder, index=index, settle_seconds=quiet_seconds, **options
        )
    except StoreError as error:
        # another writer will have ended, a full disk been cleared
        logger.warning("%s; trying again", error)
        return time.monotonic() + _RETRY_SECONDS
    if on_run is not None:
        on_run(summary)
    return time.monotonic() + quiet_seconds if summary.postponed else None
