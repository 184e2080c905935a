"""One decode process as its parent sees it: start, send, receive within a time limit, kill.

Below `sandbox.MediaDecoder`, above `worker.py`; the messages on the pipes are described there.
Pictures and the bytes of files cross over in `SharedSlots` where the system has them and they fit,
and through the pipes otherwise. Several requests may be under way: while the parent takes one
picture, the process decodes the next.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import select
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.shared_slots import SharedSlots
from mmembed.inputs.worker import LENGTHS, POSITION, Message, policy_request

__all__ = ["DecodeProcess", "ProcessDiedError", "ProcessTimeoutError"]

START_SECONDS = 120.0  # a loaded machine may take long to start an interpreter
MAX_HEADER_BYTES = 64 << 20
PIPE_BYTES = 1 << 20  # the most that Linux gives an ordinary user by default
# Requests are written before answers are read, so those under way together must fit in the pipe.
UNREAD_BYTES = 60_000
READ_BYTES = 1 << 16
NUM_SLOTS = 4  # requests under way; more would only hold more memory
SLOT_BYTES = 48 << 20  # a picture of 16 megapixels; memory is taken as far as it is used


class ProcessDiedError(Exception):
    """The decode process ended without an answer."""


class ProcessTimeoutError(Exception):
    """The decode process did not answer in time."""


class DecodeProcess:
    """A running `worker.py`. Not thread-safe: one user at a time.

    Attributes:
        served: how many requests it has answered.
        alive: False after `kill`.
    """

    def __init__(self, policy: MediaPolicy) -> None:
        self.served = 0
        self.alive = True
        self._max_body_bytes = policy.memory_bytes
        self._free_slots = list(reversed(range(NUM_SLOTS)))  # the last one is taken: it is warm
        self._under_way: deque[tuple[int, int]] = deque()  # slot, bytes in the pipe
        self._received = bytearray()
        # a part of the memory that the policy allows, because it counts as the process's own
        slot_bytes = min(SLOT_BYTES, policy.memory_bytes // 64) // mmap.PAGESIZE * mmap.PAGESIZE
        created = SharedSlots.create(NUM_SLOTS, slot_bytes) if slot_bytes else None
        self._slots: SharedSlots | None = None
        descriptor = None
        if created is not None:
            self._slots, descriptor = created
        try:
            self._process = subprocess.Popen(
                # -P: modules of the current folder must not shadow the real ones
                [sys.executable, "-P", "-B", "-m", "mmembed.inputs.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=_environment(),
                start_new_session=True,  # Ctrl-C in a terminal reaches the parent only
                pass_fds=() if descriptor is None else (descriptor,),
            )
        finally:
            if descriptor is not None:
                os.close(descriptor)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests = self._process.stdin
        self._answers = self._process.stdout.fileno()
        self._poller = select.poll()
        self._poller.register(self._answers, select.POLLIN)
        _widen(self._answers)
        shared = None if descriptor is None else (descriptor, NUM_SLOTS, slot_bytes)
        try:
            self.send(policy_request(policy, shared))
            self.receive(START_SECONDS)
            self.finish()
        except (ProcessDiedError, ProcessTimeoutError) as error:
            self.kill()
            raise RuntimeError(
                "the decode process did not start; run `python -m mmembed.inputs.worker` to see "
                "why, or decode in this process with MediaPolicy(isolate=False)"
            ) from error
        except BaseException:
            self.kill()
            raise

    def send(self, request: Message) -> bool:
        """Write a request; False, and nothing written, while those under way leave no room.

        Answers come in the order of the requests.
        """
        if not self._free_slots:
            return False
        header, body = request
        slot = self._free_slots[-1]
        header = {**header, "slot": slot}
        in_slot = self._slots is not None and 0 < len(body) <= self._slots.slot_bytes
        if in_slot:
            header["body_bytes"] = len(body)
        encoded = json.dumps(header).encode()
        count = LENGTHS.size + len(encoded) + (0 if in_slot else len(body))
        if self._under_way and count + sum(size for _, size in self._under_way) > UNREAD_BYTES:
            return False
        self._under_way.append((self._free_slots.pop(), count))
        try:
            if in_slot:
                assert self._slots is not None
                self._slots.put(slot, 0, memoryview(body))
                body = b""
            for piece in (LENGTHS.pack(len(encoded), len(body)) + encoded, body):
                view = memoryview(piece)
                while view:
                    view = view[self._requests.write(view) :]
        except (BrokenPipeError, ValueError):  # ValueError: another thread closed us
            raise ProcessDiedError from None
        return True

    def receive(self, seconds: float) -> tuple[dict[str, Any], np.ndarray]:
        """The next answer to the oldest request: header, and body as uint8 (n,).

        Raises:
            ProcessTimeoutError: nothing came within `seconds`.
            ProcessDiedError: it ended, or what it sent is not our protocol: a decoder has been
                taken over or gone mad.
        """
        deadline = time.monotonic() + seconds
        header_bytes, body_bytes = LENGTHS.unpack(self._read(LENGTHS.size, deadline))
        if header_bytes > MAX_HEADER_BYTES or body_bytes > self._max_body_bytes:
            raise ProcessDiedError
        try:
            header = json.loads(self._read(header_bytes, deadline))
        except ValueError:
            raise ProcessDiedError from None
        if not isinstance(header, dict):
            raise ProcessDiedError
        if "in_slot" in header:
            return header, self._take_frames(header["in_slot"], deadline)
        return header, self._read_body(body_bytes, deadline)

    def finish(self) -> None:
        """The oldest request is answered: its slot may be used again."""
        slot, _ = self._under_way.popleft()
        self._free_slots.append(slot)

    def _take_frames(self, place: Any, deadline: float) -> np.ndarray:
        """A copy of what the process puts in the slot of the oldest request, as it gets there."""
        try:
            first, end = map(int, place)
        except (TypeError, ValueError, OverflowError):
            raise ProcessDiedError from None
        if self._slots is None or not 0 <= first <= end <= self._slots.slot_bytes:
            raise ProcessDiedError
        slot, _ = self._under_way[0]
        frames = np.empty(end - first, dtype=np.uint8)
        start = first
        while start < end:
            (stop,) = POSITION.unpack(self._read(POSITION.size, deadline))
            if not start < stop <= end:
                raise ProcessDiedError
            part = self._slots.view(slot, start, stop)
            frames[start - first : stop - first] = np.frombuffer(part, dtype=np.uint8)
            start = stop
        return frames

    def _read(self, count: int, deadline: float) -> bytes:
        while len(self._received) < count:
            self._wait(deadline)
            chunk = os.read(self._answers, READ_BYTES)
            if not chunk:
                raise ProcessDiedError
            self._received += chunk
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def _read_body(self, count: int, deadline: float) -> np.ndarray:
        body = np.empty(count, dtype=np.uint8)
        view = memoryview(body)  # type: ignore[arg-type]
        early = min(count, len(self._received))
        view[:early] = self._received[:early]
        del self._received[:early]
        view = view[early:]
        while view:
            self._wait(deadline)
            received = os.readv(self._answers, [view])
            if received == 0:
                raise ProcessDiedError
            view = view[received:]
        return body

    def _wait(self, deadline: float) -> None:
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not self._poller.poll(remaining * 1000):
            raise ProcessTimeoutError

    def is_running(self) -> bool:
        return self.alive and self._process.poll() is None

    def kill(self) -> None:
        """End the process at once and collect it. May be called twice."""
        self.alive = False
        self._process.kill()
        self._process.wait()
        if self._slots is not None:
            self._slots.close()
        self._requests.close()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _widen(pipe: int) -> None:
    """Let a picture pass in few steps: each full pipe costs two changes of process."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux
        with suppress(OSError):  # the system may allow less; the pipe then stays as it is
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _environment() -> dict[str, str]:
    """The parent's environment, so that the same mmembed is found; number libraries kept small.

    Thread pools would reserve address space for every core, which counts against the memory
    limit before anything is decoded. The allocator is told to keep up to 128 MiB between pictures:
    getting the memory of each picture from the system anew took a third of the time.
    """
    package_root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package_root, inherited])),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the most that glibc accepts
    }
