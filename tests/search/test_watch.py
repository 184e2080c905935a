"""A folder that is watched while files come, change, grow and go."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmembed.errors import ConfigError
from mmembed.search.exact_index import ExactIndex
from mmembed.search.summary import IndexSummary
from mmembed.search.watch import watch_folder
from tests.search.conftest import picture

pytest.importorskip("watchfiles")
LIMIT_SECONDS = 60.0


class Watch:
    """`watch_folder` in a thread, and what its runs did."""

    def __init__(self, folder: Path, index: Path, encoder: Any, **options: Any) -> None:
        self.index = index
        self.runs: list[IndexSummary] = []
        self._ran = threading.Condition()
        self._stop = threading.Event()
        target = ExactIndex(index, fingerprint=encoder.fingerprint, dimension=32)
        arguments = {"embedder": encoder, "index": target, "stop": self._stop, **options}
        self._thread = threading.Thread(
            target=watch_folder, args=(folder,), kwargs={**arguments, "on_run": self._note}
        )
        self._thread.start()

    def _note(self, summary: IndexSummary) -> None:
        with self._ran:
            self.runs.append(summary)
            self._ran.notify_all()

    def names(self) -> list[str]:
        return [Path(row.path).name for row in ExactIndex(self.index).rows()]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until a run has made the condition true."""
        with self._ran:
            assert self._ran.wait_for(condition, LIMIT_SECONDS), self.names()

    def runs_again(self) -> bool:
        """Whether another run ends within three times what one takes to notice."""
        before = len(self.runs)
        with self._ran:
            return self._ran.wait_for(lambda: len(self.runs) > before, 1.5)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(LIMIT_SECONDS)
        assert not self._thread.is_alive()


@pytest.fixture
def watch(photos: Path, tmp_path: Path, hash_encoder: Any) -> Iterator[Callable[..., Watch]]:
    running: list[Watch] = []

    def begin(**options: Any) -> Watch:
        options = {"quiet_seconds": 0.2, **options}
        running.append(Watch(photos, tmp_path / "index", hash_encoder, **options))
        return running[-1]

    yield begin
    for each in running:
        each.close()


@pytest.mark.parametrize("poll_seconds", [None, 0.2])
def test_what_comes_changes_moves_and_goes_is_followed(
    watch: Callable[..., Watch],
    photos: Path,
    hash_encoder: Any,
    poll_seconds: float | None,
) -> None:
    running = watch(poll_seconds=poll_seconds)
    running.wait_for(lambda: len(running.names()) == 4)
    hash_encoder.encoded.clear()
    picture(photos / "deep" / "new.png", (9, 8, 7))
    running.wait_for(lambda: "new.png" in running.names())
    (photos / "red.png").unlink()
    (photos / "green.png").rename(photos / "moss.png")
    running.wait_for(lambda: running.names() == ["blue.png", "new.png", "moss.png", "note.md"])
    assert len(hash_encoder.encoded) == 1, "the one that is new"


def test_a_file_that_grows_waits_and_the_others_do_not(
    watch: Callable[..., Watch], photos: Path
) -> None:
    long_ago = time.time() - 1000
    for path in photos.rglob("*.*"):
        os.utime(path, (long_ago, long_ago))
    running = watch(quiet_seconds=300.0)
    running.wait_for(lambda: len(running.names()) == 4)
    whole = (photos / "red.png").read_bytes()
    growing = photos / "growing.png"
    growing.write_bytes(whole[:40])
    finished = picture(photos / "finished.png", (5, 5, 5))
    os.utime(finished, (long_ago, long_ago))
    running.wait_for(lambda: "finished.png" in running.names())
    assert "growing.png" not in running.names()
    growing.write_bytes(whole)
    os.utime(growing, (long_ago, long_ago))  # left alone since
    running.wait_for(lambda: "growing.png" in running.names())
    assert all(not summary.failures for summary in running.runs), "half a file was never read"
    assert any(summary.postponed == [str(growing)] for summary in running.runs)


def test_the_index_inside_of_the_folder_wakes_nobody(photos: Path, hash_encoder: Any) -> None:
    running = Watch(photos, photos / "index", hash_encoder, quiet_seconds=0.0)
    try:
        running.wait_for(lambda: len(running.names()) == 4)
        assert not running.runs_again(), "the index was written, and nobody cares"
        picture(photos / ".hidden.png", (1, 1, 1))
        assert not running.runs_again()
    finally:
        running.close()


def test_another_writer_is_waited_for(
    watch: Callable[..., Watch],
    tmp_path: Path,
    hash_encoder: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mmembed.search import watch as module

    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.1)
    other = ExactIndex(tmp_path / "index", fingerprint=hash_encoder.fingerprint, dimension=32)
    refused = threading.Event()
    monkeypatch.setattr(module.logger, "warning", lambda *_: refused.set())
    with other.writing():
        running = watch()
        assert refused.wait(LIMIT_SECONDS)
        assert running.runs == []
    running.wait_for(lambda: len(running.names()) == 4)


def test_ctrl_c_ends_the_watch_after_a_commit(
    photos: Path, tmp_path: Path, hash_encoder: Any
) -> None:
    index = ExactIndex(tmp_path / "index", fingerprint=hash_encoder.fingerprint, dimension=32)
    original = hash_encoder.encode

    def encode(items: Any, **options: Any) -> Any:
        if len(hash_encoder.encoded) == 2:
            raise KeyboardInterrupt
        return original(items, **options)

    hash_encoder.encode = encode
    watch_folder(photos, embedder=hash_encoder, index=index, quiet_seconds=0.0, batch_items=1)
    assert len(ExactIndex(tmp_path / "index")) == 2
    with pytest.raises(ConfigError, match="is not a folder"):
        watch_folder(tmp_path / "nowhere", embedder=hash_encoder, index=index)
