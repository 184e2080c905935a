"""Encodes the shards of a job in several processes of this machine.

Each process loads the model itself and takes the next shard when it has finished one. Since a shard
is what is batched together, its vectors do not depend on how many processes there are. The program
of the processes is `shard_worker`, or another one that speaks as it does (`evaluation`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, ClassVar, Protocol, TypeVar

from mmembed.errors import ConfigError
from mmembed.search.worker_protocol import ProcessSpec, Reply, parse_answer

__all__ = ["NumberedShard", "default_processes", "encode_in_processes"]

_ATTEMPTS = 2
_PROGRAM = "mmembed.search.shard_worker"


class NumberedShard(Protocol):
    """A dataclass of plain values that the program understands."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def index(self) -> int: ...


Spec = TypeVar("Spec", bound=ProcessSpec)


def default_processes(device: str | None) -> int:
    """One for each GPU; one on a CPU, whose cores one process can use."""
    import torch

    uses_gpus = torch.cuda.is_available() and device in (None, "cuda")
    return max(1, torch.cuda.device_count()) if uses_gpus else 1


def encode_in_processes(
    spec: ProcessSpec, shards: Sequence[NumberedShard], processes: int, *, program: str = _PROGRAM
) -> Generator[Reply]:
    """Replies as they come, in any order; that of a process that is ready comes before its shards.

    A process that dies is replaced and its shard tried once more, then given up.

    Args:
        program: module that `python -m` runs; it reads `spec` and then shards, a line each.

    Raises:
        InputError, ConfigError: what ends the job, such as a process that cannot load the model.
    """
    todo: SimpleQueue[NumberedShard] = SimpleQueue()
    for shard in shards:
        todo.put(shard)
    replies: SimpleQueue[Reply | Exception | None] = SimpleQueue()
    slots = [
        _Slot(program, _share_of(spec, number, processes), todo, replies)
        for number in range(max(1, min(processes, len(shards))))
    ]
    try:
        running = len(slots)
        while running:
            reply = replies.get()
            if isinstance(reply, Exception):
                raise reply
            if reply is None:
                running -= 1
            else:
                yield reply
    finally:
        for slot in slots:
            slot.stop()


class _Slot:
    """A thread that keeps one worker process busy."""

    def __init__(
        self,
        program: str,
        spec: ProcessSpec,
        todo: SimpleQueue[NumberedShard],
        replies: SimpleQueue[Reply | Exception | None],
    ) -> None:
        self._program = program
        self._spec = spec
        self._todo = todo
        self._replies = replies
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._kill()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._start()
            while not self._stopped:
                try:
                    shard = self._todo.get_nowait()
                except Empty:
                    break
                self._encode(shard)
        except Exception as error:
            self._replies.put(error)
        else:
            self._replies.put(None)
        finally:
            self._kill()

    def _encode(self, shard: NumberedShard) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            if self._process is None:
                self._start()
            try:
                reply = self._ask(json.dumps(asdict(shard)), shard.index)
            except EOFError:
                reply = Reply(shard=shard.index, problem=f"its process {self._kill()}")
            if reply.problem is None or attempt == _ATTEMPTS or self._stopped:
                self._replies.put(reply)
                return

    def _start(self) -> None:
        self._process = subprocess.Popen(
            # -P: modules of the current folder must not shadow the real ones
            [sys.executable, "-P", "-m", self._program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(self._spec),
            start_new_session=True,  # Ctrl-C in a terminal reaches the parent only
        )
        try:
            if self._stopped:
                raise EOFError
            reply = self._ask(json.dumps(self._spec.model_dump(mode="json")), None)
        except EOFError:
            raise ConfigError(
                f"a worker process {self._kill()} while it loaded {self._spec.model}; what it "
                "said is above. If memory is short, use fewer --processes"
            ) from None
        if reply.problem is not None:
            raise ConfigError(f"{self._spec.model} cannot be loaded: {reply.problem}")
        self._replies.put(reply)

    def _ask(self, line: str, shard: int | None) -> Reply:
        """Raises EOFError when the process ends instead of answering."""
        assert self._process is not None
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(line.encode("ascii") + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise EOFError from None
        answered = self._process.stdout.readline()
        if not answered.endswith(b"\n"):
            raise EOFError
        return parse_answer(json.loads(answered), shard)

    def _kill(self) -> str:
        """End the process; says how it had ended, if it had."""
        process, self._process = self._process, None
        if process is None:
            return ""
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()  # tells it to end
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what it did not read is lost
                pipe.close()
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _share_of(spec: Spec, number: int, processes: int) -> Spec:
    """The spec for one of several processes: its GPU, or its part of the cores."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    changes: dict[str, object] = {
        "num_workers": spec.num_workers or max(1, min(8, (cores or 1) // processes)),
        "num_threads": spec.num_threads or max(1, torch.get_num_threads() // processes),
    }
    if spec.device in (None, "cuda") and torch.cuda.is_available():
        changes["device"] = f"cuda:{number % torch.cuda.device_count()}"
    return spec.model_copy(update=changes)


def _environment(spec: ProcessSpec) -> dict[str, str]:
    """The parent's environment, so that the same mmembed is found, and its part of the cores."""
    package_root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package_root, inherited])),
        "OMP_NUM_THREADS": str(spec.num_threads or 1),
    }
