"""One decode process as its parent sees it: start, send, receive within a time limit, kill.

Below `sandbox.MediaDecoder`, above `worker.py`; the bytes on the pipes are described there.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mmembed.inputs.media import MediaPolicy
from mmembed.inputs.worker import LENGTHS, Message, policy_request

__all__ = ["DecodeProcess", "ProcessDiedError", "ProcessTimeoutError"]

START_SECONDS = 120.0  # a loaded machine may take long to start an interpreter
MAX_HEADER_BYTES = 64 << 20
PIPE_BYTES = 1 << 20  # the most that Linux gives an ordinary user by default


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
        self._process = subprocess.Popen(
            # -P: modules of the current folder must not shadow the real ones
            [sys.executable, "-P", "-B", "-m", "mmembed.inputs.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=_environment(),
            start_new_session=True,  # Ctrl-C in a terminal reaches the parent only
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests = self._process.stdin
        self._answers = self._process.stdout.fileno()
        _widen(self._answers)
        try:
            self.send([policy_request(policy)])
            self.receive(START_SECONDS)
        except (ProcessDiedError, ProcessTimeoutError) as error:
            self.kill()
            raise RuntimeError(
                "the decode process did not start; run `python -m mmembed.inputs.worker` to see "
                "why, or decode in this process with MediaPolicy(isolate=False)"
            ) from error
        except BaseException:
            self.kill()
            raise

    def send(self, requests: Sequence[Message]) -> None:
        """Write requests. Together they must fit in the pipe, unless there is only one."""
        pieces: list[bytes] = []
        for header, body in requests:
            encoded = json.dumps(header).encode()
            pieces += [LENGTHS.pack(len(encoded), len(body)), encoded, body]
        chunks = pieces if len(requests) == 1 else [b"".join(pieces)]
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[self._requests.write(view) :]
        except (BrokenPipeError, ValueError):
            raise ProcessDiedError from None

    def receive(self, seconds: float) -> tuple[dict[str, Any], np.ndarray]:
        """The next answer: header, and body as uint8 (n,), within `seconds`."""
        deadline = time.monotonic() + seconds
        header_bytes, body_bytes = LENGTHS.unpack(self._read(LENGTHS.size, deadline).tobytes())
        if header_bytes > MAX_HEADER_BYTES or body_bytes > self._max_body_bytes:
            raise ProcessDiedError  # not our protocol: a decoder has been taken over or gone mad
        try:
            header = json.loads(self._read(header_bytes, deadline).tobytes())
        except ValueError:
            raise ProcessDiedError from None
        return header, self._read(body_bytes, deadline)

    def _read(self, count: int, deadline: float) -> np.ndarray:
        buffer = np.empty(count, dtype=np.uint8)
        view = memoryview(buffer)  # type: ignore[arg-type]
        poller = select.poll()
        poller.register(self._answers, select.POLLIN)
        while view:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not poller.poll(remaining * 1000):
                raise ProcessTimeoutError
            received = os.readv(self._answers, [view])
            if received == 0:
                raise ProcessDiedError
            view = view[received:]
        return buffer

    def kill(self) -> None:
        """End the process at once and collect it. May be called twice."""
        self.alive = False
        self._process.kill()
        self._process.wait()
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
    limit before anything is decoded.
    """
    package_root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package_root, inherited])),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }
