"""Decode processes at work: each answers jobs of one queue until it is empty.

Below `sandbox.MediaDecoder`, above `process.py`. Several requests are under way in a process, and
what becomes of a picture (`take`: resize, cut) happens in the thread that received it, while the
process decodes the next one. So no core waits, and of each process one picture is in memory.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmembed.errors import InputError, MissingDependencyError
from mmembed.inputs.media import DecodedMedia, MediaPolicy, bytes_name, join, printable_name
from mmembed.inputs.process import DecodeProcess, ProcessDiedError, ProcessTimeoutError
from mmembed.inputs.worker import Message
from mmembed.types import MediaSource

__all__ = ["DecodeJob", "DecodePool", "Take"]

Take = Callable[[DecodedMedia], Any]  # what becomes of the pictures of a part

TURN_JOBS = 64  # served before others that wait for a process get their turn


@dataclass
class DecodeJob:
    """One request to a decode process, and where its outcome goes."""

    request: Message
    part: str
    name: str | None
    source: MediaSource
    seconds: float
    take: Take | None = None
    outcome: Any = None  # what `take` made of the media, the value of a page request, or InputError
    retried: bool = False

    def finish(self, answer: Any) -> None:
        """Enter what the process answered; may raise whatever `take` raises but InputError."""
        if self.take is not None and isinstance(answer, DecodedMedia):
            try:
                answer = self.take(answer)
            except InputError as error:
                answer = error
        self.outcome = answer

    def fail(self, code: Any, detail: str) -> None:
        self.outcome = self.error(code, detail)

    def error(self, code: Any, detail: str) -> InputError:
        name = self.name
        if name is None:
            source = self.source
            name = bytes_name(source) if isinstance(source, bytes) else printable_name(source)  # type: ignore[arg-type]
        return InputError(code, detail, part=self.part, source=name)


class DecodePool:
    """Decode processes that are idle or at work; at most `num_workers` of them.

    Attributes:
        num_started: processes so far; many more than `num_workers` where files kill them.
    """

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
        self.num_started = 0

    def close(self) -> None:
        if self._pid != os.getpid():  # inherited by a fork: these belong to the parent
            return
        with self._lock:
            processes, self._all, self._idle = list(self._all), set(), []
        for process in processes:
            process.kill()

    def follow_fork(self) -> None:
        """Forget the processes of the parent; before threads of this process call `work`."""
        if self._pid != os.getpid():
            self._reset()

    def work(self, queue: deque[DecodeJob]) -> None:
        """Fill in the outcome of every job of the queue that no other thread takes."""
        mine: deque[DecodeJob] = deque()  # taken and without an outcome, in order
        while mine or queue:
            with self._slots:
                process = self._checkout(fresh=bool(mine) and mine[0].retried)
                try:
                    self._serve(process, mine, queue)
                except BaseException:  # Ctrl-C: the process may be in the middle of an answer
                    self._discard(process)
                    raise
                if process.alive and process.served < self._policy.items_per_worker:
                    self._check_in(process)
                else:
                    self._discard(process)

    def _serve(
        self, process: DecodeProcess, mine: deque[DecodeJob], queue: deque[DecodeJob]
    ) -> None:
        """One turn of a process. Jobs that it left without an outcome stay in `mine`.

        The first job without an answer is the one that killed the process. It gets one more try
        in a fresh process, so that its outcome does not depend on what was decoded before it.
        """
        room = min(TURN_JOBS, self._policy.items_per_worker - process.served)
        sent = 0  # of the first ones in `mine`
        while True:
            try:
                with suppress(ProcessDiedError):  # reading tells how far it got
                    while (
                        room > 0
                        and (sent < len(mine) or self._move_one(queue, mine))
                        and process.send(mine[sent].request)
                    ):
                        sent, room = sent + 1, room - 1
                if not mine or (room <= 0 and not sent):
                    return
                job = mine[0]
                answer = _collect(process, job, self._policy)
            except ProcessTimeoutError:
                process.kill()
                mine.popleft().fail("decode_timeout", _timeout_text(job.seconds))
                return
            except ProcessDiedError:
                process.kill()
                _after_crash(mine, "decoder_crash", "the decode process died on this file")
                return
            process.finish()
            process.served += 1
            if isinstance(answer, InputError) and answer.code == "out_of_memory":
                process.kill()
                _after_crash(mine, "out_of_memory", answer.detail)
                return
            mine.popleft()
            sent -= 1
            job.finish(answer)
            del answer  # or this picture would be kept until the next one is here

    def _move_one(self, queue: deque[DecodeJob], mine: deque[DecodeJob]) -> bool:
        """Take the next job, unless other threads have taken all or must have what is left."""
        if mine and len(mine) >= (len(mine) + len(queue)) // self._num_workers:
            return False
        with suppress(IndexError):
            mine.append(queue.popleft())
            return True
        return False

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
            self.num_started += 1
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


def _after_crash(mine: deque[DecodeJob], code: str, detail: str) -> None:
    if mine[0].retried:
        mine.popleft().fail(code, detail)
    else:
        mine[0].retried = True


def _timeout_text(seconds: float) -> str:
    return (
        f"decoding took longer than {seconds:g} s and was stopped "
        "(timeout_seconds, page_timeout_seconds of the media policy)"
    )


def _collect(process: DecodeProcess, job: DecodeJob, policy: MediaPolicy) -> Any:
    """All answers to one request as one outcome."""
    pieces: list[DecodedMedia] = []
    entries: list[Any] = []
    while True:
        header, body = process.receive(job.seconds)
        if "missing" in header:
            raise MissingDependencyError(*header["missing"])
        if "error" in header:
            return _error(header["error"], job)
        if "value" in header:
            return header["value"]
        if "entry" in header:
            entries.append(header["entry"])
        if "entries" in header:
            return entries
        if "shapes" in header:
            try:
                pieces.append(_media(header, body))
            except (KeyError, TypeError, ValueError):  # not our worker speaks
                raise ProcessDiedError from None
        if header.get("done"):
            return join(pieces)


def _error(fields: dict[str, Any], job: DecodeJob) -> InputError:
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
