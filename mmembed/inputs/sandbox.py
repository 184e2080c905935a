"""Decode media in killable processes: a bad file costs its own item and nothing else.

`MediaDecoder` is what the processor and the search room use. Files and bytes go to a small pool
of decode processes (`decode_pool.py`, `worker.py`), started when first needed; pictures in memory
are converted here, and addresses are fetched here first. A process that crashes or exceeds its
time is killed and replaced: PDFs exist that never finish, and no Python code can stop them from
inside.

The pool uses `subprocess` and pipes rather than `multiprocessing`: it needs no
`if __name__ == "__main__"`, starts without the parent's modules, and nothing that a compromised
decoder sends is ever unpickled.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from mmembed.errors import InputError
from mmembed.inputs.decode_pool import DecodeJob, DecodePool, Take
from mmembed.inputs.media import DecodedMedia, MediaPart, MediaPolicy, decode, join, part_name
from mmembed.inputs.page_blocks import PageText
from mmembed.inputs.page_shares import PageShares, num_shares
from mmembed.inputs.sampling import FRAME_LIST_FPS, select_from_list
from mmembed.inputs.sizing import MediaBudget
from mmembed.inputs.worker import decode_request, page_request
from mmembed.types import Image, MediaSource, Page, Url, Video

__all__ = ["MediaDecoder"]

SMALL_PICTURE_PIXELS = 1 << 17  # to hand one in memory to another thread costs more than it gains


@dataclass
class _Task:
    """What is done in this process. `beside` others, in any thread; else in the caller's."""

    run: Callable[[], Any]
    beside: bool
    outcome: Any = None  # of the part, or InputError

    def __call__(self) -> None:
        try:
            self.outcome = self.run()
        except InputError as error:
            self.outcome = error


class MediaDecoder:
    """Turns media parts into pictures within a policy. Thread-safe; use it as a context manager.

    Args:
        policy: what may be opened, and how much of it.
        num_workers: decode processes at most, and threads of a call that serve them. They are
            started when first needed.
    """

    def __init__(self, policy: MediaPolicy | None = None, num_workers: int = 1) -> None:
        self.policy = policy or MediaPolicy()
        self.num_workers = max(1, num_workers)
        self._pool = DecodePool(self.policy, self.num_workers)
        self._loading = threading.Lock()
        self._finalizer = weakref.finalize(self, self._pool.close)

    def __enter__(self) -> MediaDecoder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return MediaDecoder, (self.policy, self.num_workers)

    def close(self) -> None:
        """End the decode processes. The decoder stays usable and would start new ones."""
        self._pool.close()

    @property
    def num_started(self) -> int:
        """Decode processes so far."""
        return self._pool.num_started

    def decode(self, part: MediaPart, budget: MediaBudget) -> DecodedMedia:
        """The pictures of one part.

        Raises:
            InputError: with part, source and code; `index` is `("frames", i)` when one of a list
                of frames is bad and `("pages", n)` for page n of a PDF.
        """
        return _raise_or_return(self.decode_many([part], [budget])[0])

    def decode_many(
        self,
        parts: Sequence[MediaPart],
        budgets: Sequence[MediaBudget],
        takes: Sequence[Take] | None = None,
    ) -> list[Any]:
        """The outcome of each part, in order: its `DecodedMedia`, or an `InputError`.

        Args:
            takes: for each part what becomes of its pictures; the value is the outcome instead,
                and so is an `InputError` that it raises. It runs in any thread, while other parts
                are decoded, and then only the pictures at work are in memory.
        """
        takes = takes or [_keep] * len(parts)
        tasks = [
            self._begin(part, budget, take, num_shares(part, len(parts), self.num_workers))
            for part, budget, take in zip(parts, budgets, takes, strict=True)
        ]
        self._run(tasks)
        return [task.outcome for task in tasks]

    def page_count(self, source: MediaSource, password: str | None = None) -> int:
        """Number of pages of a PDF."""
        return int(self._ask_document("page_count", source, password=password))

    def page_blocks(
        self,
        source: MediaSource,
        page: int,
        count: int = 1,
        *,
        max_chars: int = 20_000,
        password: str | None = None,
    ) -> list[PageText]:
        """What text stands where on `count` pages from `page` on (1-based); fewer at the end."""
        options = {"page": page, "count": count, "max_chars": max_chars, "password": password}
        return [
            PageText.of(found) for found in self._ask_document("page_blocks", source, **options)
        ]

    def _ask_document(self, operation: str, source: MediaSource, **options: Any) -> Any:
        source, name = self._local(source, "pdf")
        if not self.policy.isolate:
            from mmembed.inputs import documents

            return getattr(documents, operation)(source, self.policy, name=name, **options)
        request = page_request(operation, source, name, **options)
        job = DecodeJob(request, "pdf", name, source, self.policy.page_timeout_seconds)
        self._run([job])
        return _raise_or_return(job.outcome)

    def _run(self, given: Sequence[_Task | DecodeJob | PageShares]) -> None:
        """Do everything, in as many threads as there are workers; each takes what is next."""
        self._pool.follow_fork()
        tasks = deque(one for one in given if isinstance(one, _Task) and one.beside)
        jobs: deque[DecodeJob] = deque()
        for one in given:
            if not isinstance(one, _Task):
                jobs.extend(one.jobs if isinstance(one, PageShares) else [one])

        def work() -> None:
            while True:
                try:
                    task = tasks.popleft()
                except IndexError:
                    break
                task()
            self._pool.work(jobs)

        def alone() -> None:
            for one in given:
                if isinstance(one, _Task) and not one.beside:
                    one()

        num_threads = min(self.num_workers, len(tasks) + len(jobs))
        if num_threads <= 1:
            alone()
            work()
            return
        with ThreadPoolExecutor(num_threads) as threads:
            running = [threads.submit(work) for _ in range(num_threads)]
            try:
                alone()
                for future in running:
                    future.result()
            except BaseException:  # the others end after what they have in hand
                tasks.clear()
                jobs.clear()
                raise

    def _begin(
        self, part: MediaPart, budget: MediaBudget, take: Take, shares: int
    ) -> _Task | DecodeJob | PageShares:
        source = part.source
        if isinstance(part, Video) and isinstance(source, tuple):
            return _Task(partial(self._frames, part, budget, take), beside=False)
        if isinstance(source, Url):
            return _Task(partial(self._fetched, part, budget, take), beside=True)
        if isinstance(source, bytes | os.PathLike):
            if self.policy.isolate:
                if shares > 1:
                    make_job = partial(self._job, part, budget, None)
                    return PageShares(shares, make_job, take)
                return self._job(part, budget, None, take)
            # libraries that draw pages must not run in two threads
            return _Task(partial(self._here, part, budget, take), isinstance(part, Image))
        small = _num_pixels(source) <= SMALL_PICTURE_PIXELS
        return _Task(partial(self._in_memory, source, take), beside=not small)

    def _job(
        self,
        part: MediaPart,
        budget: MediaBudget,
        name: str | None,
        take: Take,
        share: tuple[int, int] = (0, 1),
    ) -> DecodeJob:
        seconds = self.policy.timeout_seconds
        if isinstance(part, Page):
            seconds = self.policy.page_timeout_seconds
        assert isinstance(part.source, bytes | os.PathLike), type(part.source)
        request = decode_request(part, budget, name, share)
        return DecodeJob(request, part_name(part), name, part.source, seconds, take)

    def _here(
        self, part: MediaPart, budget: MediaBudget, take: Take, name: str | None = None
    ) -> Any:
        return take(join(decode(part, budget, self.policy, name=name)))

    def _fetched(self, part: MediaPart, budget: MediaBudget, take: Take) -> Any:
        source, name = self._local(part.source, part_name(part))  # type: ignore[arg-type]
        part = replace(part, source=source)
        if not self.policy.isolate:
            return self._here(part, budget, take, name)
        job = self._job(part, budget, name, take)
        self._pool.work(deque([job]))
        return job.outcome

    def _in_memory(self, source: Any, take: Take) -> Any:
        from mmembed.inputs import images

        if isinstance(source, np.ndarray):
            return take(images.decode_picture(source, self.policy))
        with self._loading:  # two parts may hold the same picture, which loads itself when used
            decoded = images.decode_picture(source, self.policy)
        return take(decoded)

    def _frames(self, part: Video, budget: MediaBudget, take: Take) -> Any:
        """A list of frames: each goes the way of an image."""
        assert isinstance(part.source, tuple)
        chosen = select_from_list(part, len(part.source), self.policy)
        frames = [Image(part.source[index]) for index in chosen]
        outcomes = self.decode_many(frames, [budget] * len(frames))
        for index, outcome in zip(chosen, outcomes, strict=True):
            if isinstance(outcome, InputError):
                raise InputError(
                    outcome.code,
                    outcome.detail,
                    part="video",
                    source=outcome.source,
                    index=("frames", index),
                )
        times = tuple(index / FRAME_LIST_FPS for index in chosen)
        return take(replace(join(outcomes), timestamps=times))

    def _local(self, source: MediaSource, part: str) -> tuple[MediaSource, str | None]:
        """The source as file or bytes, and the host it came from."""
        if not isinstance(source, Url):
            return source, None
        from mmembed.inputs import fetch

        return fetch.fetch(source, self.policy, part)


def _keep(media: DecodedMedia) -> DecodedMedia:
    return media


def _num_pixels(picture: Any) -> int:
    """Of an array or a `PIL.Image`; 0 of what is neither, which will be refused."""
    if isinstance(picture, np.ndarray):
        return picture.shape[0] * picture.shape[1] if picture.ndim >= 2 else 0
    size = getattr(picture, "size", None)
    return size[0] * size[1] if isinstance(size, tuple) and len(size) == 2 else 0


def _raise_or_return(outcome: Any) -> Any:
    if isinstance(outcome, InputError):
        raise outcome
    return outcome
