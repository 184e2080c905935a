"""Decode media in killable processes: a bad file costs its own item and nothing else.

`MediaDecoder` is what the processor and the search room use. Files and bytes go to a small pool
of decode processes (`worker.py`), started when first needed; pictures in memory are converted
here, and addresses are fetched here first. A process that crashes or exceeds its time is killed
and replaced: PDFs exist that never finish, and no Python code can stop them from inside.

The pool uses `subprocess` and pipes rather than `multiprocessing`: it needs no
`if __name__ == "__main__"`, starts without the parent's modules, and nothing that a compromised
decoder sends is ever unpickled.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmembed.errors import InputError, MissingDependencyError
from mmembed.inputs.media import (
    DecodedMedia,
    MediaPart,
    MediaPolicy,
    bytes_name,
    decode,
    join,
    part_name,
    printable_name,
)
from mmembed.inputs.process import DecodeProcess, ProcessDiedError, ProcessTimeoutError
from mmembed.inputs.sampling import FRAME_LIST_FPS, select_from_list
from mmembed.inputs.sizing import MediaBudget
from mmembed.inputs.worker import Message, decode_request, page_request
from mmembed.types import Image, MediaSource, Page, Url, Video

__all__ = ["MediaDecoder"]

BATCH_ITEMS = 64


@dataclass
class _Job:
    """One request to a decode process, and where its outcome goes."""

    request: Message
    part: str
    name: str | None
    source: MediaSource
    seconds: float
    outcome: Any = None  # DecodedMedia, the value of a page request, or InputError
    retried: bool = False

    def fail(self, error: InputError) -> None:
        self.outcome = error

    def error(self, code: Any, detail: str) -> InputError:
        name = self.name
        if name is None:
            source = self.source
            name = bytes_name(source) if isinstance(source, bytes) else printable_name(source)  # type: ignore[arg-type]
        return InputError(code, detail, part=self.part, source=name)


class MediaDecoder:
    """Turns media parts into pictures within a policy. Thread-safe; use it as a context manager.

    Args:
        policy: what may be opened, and how much of it.
        num_workers: decode processes at most. They are started when first needed.
    """

    def __init__(self, policy: MediaPolicy | None = None, num_workers: int = 1) -> None:
        self.policy = policy or MediaPolicy()
        self.num_workers = max(1, num_workers)
        self._pool = _Pool(self.policy, self.num_workers)
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

    def decode(self, part: MediaPart, budget: MediaBudget) -> DecodedMedia:
        """The pictures of one part.

        Raises:
            InputError: with part, source and code; `index` is `("frames", i)` when one of a list
                of frames is bad and `("pages", n)` for page n of a PDF.
        """
        return _raise_or_return(self.decode_many([part], [budget])[0])

    def decode_many(
        self, parts: Sequence[MediaPart], budgets: Sequence[MediaBudget]
    ) -> list[DecodedMedia | InputError]:
        """The outcome of each part, in order. Many small files cost one exchange, not many."""
        assert len(parts) == len(budgets), (len(parts), len(budgets))
        jobs: list[_Job] = []
        pending = [
            self._begin(part, budget, jobs) for part, budget in zip(parts, budgets, strict=True)
        ]
        self._pool.run(jobs)
        return [finish() for finish in pending]

    def page_count(self, source: MediaSource, password: str | None = None) -> int:
        """Number of pages of a PDF."""
        return int(self._ask_document("page_count", source, password=password))

    def page_text(self, source: MediaSource, page: int, password: str | None = None) -> str:
        """The text layer of a page (1-based), in reading order; empty for a scan."""
        return str(self._ask_document("page_text", source, page=page, password=password))

    def _ask_document(self, operation: str, source: MediaSource, **options: Any) -> Any:
        source, name = self._local(source, "pdf")
        if not self.policy.isolate:
            from mmembed.inputs import documents

            return getattr(documents, operation)(source, self.policy, name=name, **options)
        request = page_request(operation, source, name, **options)
        job = _Job(request, "pdf", name, source, self.policy.page_timeout_seconds)
        self._pool.run([job])
        return _raise_or_return(job.outcome)

    def _begin(
        self, part: MediaPart, budget: MediaBudget, jobs: list[_Job]
    ) -> Callable[[], DecodedMedia | InputError]:
        """Do what is done here, queue the rest, and return how to collect the outcome."""
        try:
            if isinstance(part, Video) and isinstance(part.source, tuple):
                return self._begin_frames(part, budget, jobs)
            if isinstance(part, Image) and not isinstance(part.source, Url | bytes | os.PathLike):
                from mmembed.inputs import images

                picture = images.decode_picture(part.source, self.policy)
                return lambda: picture
            source, name = self._local(part.source, part_name(part))  # type: ignore[arg-type]
            part = replace(part, source=source)
            if not self.policy.isolate:
                decoded = join(decode(part, budget, self.policy, name=name))
                return lambda: decoded
        except InputError as error:
            failure = error
            return lambda: failure
        seconds = self.policy.timeout_seconds
        if isinstance(part, Page):
            seconds = self.policy.page_timeout_seconds
        job = _Job(decode_request(part, budget, name), part_name(part), name, source, seconds)
        jobs.append(job)
        return lambda: job.outcome

    def _begin_frames(
        self, part: Video, budget: MediaBudget, jobs: list[_Job]
    ) -> Callable[[], DecodedMedia | InputError]:
        """A list of frames: each goes the way of an image."""
        assert isinstance(part.source, tuple)
        chosen = select_from_list(part, len(part.source), self.policy)
        finishers = [self._begin(Image(part.source[index]), budget, jobs) for index in chosen]

        def finish() -> DecodedMedia | InputError:
            frames: list[DecodedMedia] = []
            for index, finisher in zip(chosen, finishers, strict=True):
                outcome = finisher()
                if isinstance(outcome, InputError):
                    return InputError(
                        outcome.code,
                        outcome.detail,
                        part="video",
                        source=outcome.source,
                        index=("frames", index),
                    )
                frames.append(outcome)
            return replace(
                join(frames), timestamps=tuple(index / FRAME_LIST_FPS for index in chosen)
            )

        return finish

    def _local(self, source: MediaSource, part: str) -> tuple[MediaSource, str | None]:
        """The source as file or bytes, and the host it came from."""
        if not isinstance(source, Url):
            return source, None
        from mmembed.inputs import fetch

        return fetch.fetch(source, self.policy, part)


def _raise_or_return(outcome: Any) -> Any:
    if isinstance(outcome, InputError):
        raise outcome
    return outcome


class _Pool:
    """Decode processes that are idle or at work; at most `num_workers` of them."""

    def __init__(self, policy: MediaPolicy, num_workers: int) -> None:
        self._policy = policy
        self._num_workers = num_workers
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(self._num_workers)
        self._idle: list[DecodeProcess] = []
        self._all: set[DecodeProcess] = set()

    def close(self) -> None:
        if self._pid != os.getpid():  # inherited by a fork: these belong to the parent
            return
        with self._lock:
            processes, self._all, self._idle = list(self._all), set(), []
        for process in processes:
            process.kill()

    def run(self, jobs: Sequence[_Job]) -> None:
        """Fill in the outcome of every job."""
        if not jobs:
            return
        if self._pid != os.getpid():
            self._reset()
        batches = _batches(jobs, self._num_workers)
        if self._num_workers == 1 or len(batches) == 1:
            for batch in batches:
                self._run_batch(batch)
            return
        with ThreadPoolExecutor(min(self._num_workers, len(batches))) as threads:
            list(threads.map(self._run_batch, batches))

    def _run_batch(self, batch: list[_Job]) -> None:
        waiting = batch
        while waiting:
            with self._slots:
                process = self._checkout(fresh=waiting[0].retried)
                try:
                    served = self._serve(process, waiting)
                except BaseException:  # Ctrl-C: the process may be in the middle of an answer
                    self._discard(process)
                    raise
                if process.alive and process.served < self._policy.items_per_worker:
                    self._check_in(process)
                else:
                    self._discard(process)
            waiting = waiting[served:]

    def _serve(self, process: DecodeProcess, jobs: list[_Job]) -> int:
        """Answer jobs in order; returns how many have an outcome, fewer when the process died.

        The first job without an answer is the one that killed the process. It gets one more try
        in a fresh process, so that its outcome does not depend on what was decoded before it.
        """
        sent = 0
        for position, job in enumerate(jobs):
            try:
                with suppress(ProcessDiedError):  # reading tells how far it got
                    while sent < len(jobs) and process.send(jobs[sent].request):
                        sent += 1
                job.outcome = _collect(process, job, self._policy)
            except ProcessTimeoutError:
                process.kill()
                job.fail(job.error("decode_timeout", _timeout_text(job.seconds)))
                return position + 1
            except ProcessDiedError:
                process.kill()
                return position + self._after_crash(
                    job, "decoder_crash", "the decode process died on this file"
                )
            process.finish()
            process.served += 1
            if isinstance(job.outcome, InputError) and job.outcome.code == "out_of_memory":
                process.kill()
                return position + self._after_crash(job, "out_of_memory", job.outcome.detail)
        return len(jobs)

    @staticmethod
    def _after_crash(job: _Job, code: str, detail: str) -> int:
        if not job.retried:
            job.retried = True
            return 0
        job.fail(job.error(code, detail))
        return 1

    def _checkout(self, *, fresh: bool) -> DecodeProcess:
        """An idle process, or a new one; `fresh`: a new one in any case."""
        while (process := self._take_idle()) is not None:
            if process.is_running() and not fresh:
                return process
            self._discard(process)  # killed while it had nothing to do; or it makes room
            if fresh:
                break
        process = DecodeProcess(self._policy)
        with self._lock:
            self._all.add(process)
        return process

    def _take_idle(self) -> DecodeProcess | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _check_in(self, process: DecodeProcess) -> None:
        with self._lock:
            if process in self._all:
                self._idle.append(process)

    def _discard(self, process: DecodeProcess) -> None:
        process.kill()
        with self._lock:
            self._all.discard(process)


def _timeout_text(seconds: float) -> str:
    return (
        f"decoding took longer than {seconds:g} s and was stopped "
        "(timeout_seconds, page_timeout_seconds of the media policy)"
    )


def _batches(jobs: Sequence[_Job], num_workers: int) -> list[list[_Job]]:
    size = min(BATCH_ITEMS, -(-len(jobs) // num_workers))
    return [list(jobs[start : start + size]) for start in range(0, len(jobs), size)]


def _collect(process: DecodeProcess, job: _Job, policy: MediaPolicy) -> Any:
    """All answers to one request as one outcome."""
    pieces: list[DecodedMedia] = []
    while True:
        header, body = process.receive(job.seconds)
        if "missing" in header:
            raise MissingDependencyError(*header["missing"])
        if "error" in header:
            return _error(header["error"], job)
        if "value" in header:
            return header["value"]
        if "shapes" in header:
            try:
                pieces.append(_media(header, body))
            except (KeyError, TypeError, ValueError):  # not our worker speaks
                raise ProcessDiedError from None
        if header.get("done"):
            return join(pieces)


def _error(fields: dict[str, Any], job: _Job) -> InputError:
    if "part" not in fields:
        return job.error(fields["code"], fields["detail"])
    index = fields.get("index")
    return InputError(
        fields["code"],
        fields["detail"],
        part=fields["part"],
        source=fields["source"],
        index=tuple(index) if isinstance(index, list) else index,
    )


def _media(header: dict[str, Any], body: np.ndarray) -> DecodedMedia:
    """The frames that a header describes. Raises KeyError, TypeError or ValueError if it lies."""
    frames, position = [], 0
    for height, width, channels in header["shapes"]:
        size = height * width * channels
        frames.append(body[position : position + size].reshape(height, width, channels))
        position += size
    if position != len(body):
        raise ValueError("the frames do not add up to what was sent")
    return DecodedMedia(
        frames=tuple(frames),
        timestamps=tuple(header["timestamps"]),
        pages=tuple(header["pages"]),
        warnings=tuple(header["warnings"]),
    )
