"""Run as `python fault_server.py CHECKPOINT`: forks a process for each command read from stdin.

What training imports is imported and used once before the first fork, so that a process which is
going to be killed costs a fraction of a second. A command is a line of JSON: the name of a function
below and its arguments. The
answer is the process id; to a further line, how the process has ended (negative: by that signal).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from mmembed.cli import main as command_line
from mmembed.config.files import parse_recipe
from mmembed.encoder.checkpoint import load_encoder
from mmembed.losses.temperature import Temperature
from mmembed.store.durable import write_atomically
from mmembed.training import interrupts, stages, state, step_folders, trainer
from mmembed.training.objectives import Objectives
from tests.training.fault_client import RECIPE


def train(*arguments: str, file_size: int | None = None) -> None:
    """`mmembed train` with these arguments; no file may become larger than `file_size` bytes."""
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    sys.argv = ["mmembed", "train", *arguments]
    command_line()


def ranks(world_size: int, output: str, *arguments: str, nan: tuple[int, int] | None = None) -> int:
    """`mmembed train` on several processes; `<rank>.txt` in `output` is what each has printed.

    `pids` there has their ids; `ends`, as soon as all have ended, the exit codes and how long the
    others lived after the first. The gradient of rank `nan[0]` is NaN at its step `nan[1]`.
    """
    folder = Path(output)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = {}
    for rank in range(world_size):

        def one(rank: int = rank) -> None:
            AcceleratorState._reset_state(reset_partial_state=True)
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "GLOO_SOCKET_IFNAME": "lo",
                "ACCELERATE_USE_CPU": "true",
            }
            if nan is not None and nan[0] == rank:
                _poison(nan[1])
            train(*arguments)

        pids[_fork(one, folder / f"{rank}.txt")] = rank
    write_atomically(folder / "pids", " ".join(map(str, pids)).encode())
    codes = {}
    first = None
    while len(codes) < world_size:
        pid, status = os.wait()
        first = first or time.monotonic()
        codes[pids[pid]] = os.waitstatus_to_exitcode(status)
    last = time.monotonic() - first
    ends = {"codes": [codes[rank] for rank in range(world_size)], "seconds": last}
    (folder / "ends").write_text(json.dumps(ends))
    return max(map(abs, codes.values()))


def _poison(step: int) -> None:
    """From `step` on, the gradient of this process has a NaN."""
    build = trainer.batch_gradients

    def poisoned(encoder, *arguments, **options):
        gradients = build(encoder, *arguments, **options)

        def call(model, batch, at, number):
            output = gradients(model, batch, at, number)
            if number + 1 >= step:
                parameter = next(p for p in encoder.parameters() if p.grad is not None)
                parameter.grad.flatten()[0] = torch.nan
            return output

        return call

    trainer.batch_gradients = poisoned


def train_on_a_small_disk(disk: str, *arguments: str) -> None:
    """Train on a file system without room for a second checkpoint, then with more room.

    Needs root: the file system is mounted for this process only.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, private = 0x00020000, 1 << 18 | 1 << 14  # CLONE_NEWNS, MS_PRIVATE | MS_REC

    def mount(flags: int, kind: bytes | None, options: bytes | None, target: str = disk) -> None:
        if libc.mount(b"none", target.encode(), kind, flags, options):
            raise OSError(ctypes.get_errno(), "mount")

    if libc.unshare(new_namespace):
        raise OSError(ctypes.get_errno(), "unshare")
    mount(private, None, None, "/")
    mount(0, b"tmpfs", b"size=64m")
    filling, said = Path(disk) / "filling", Path(disk).with_suffix(".txt")
    output = Path(arguments[list(arguments).index("--output") + 1])

    def attempt(expected: int) -> str:
        assert _code_of(_fork(lambda: train(*arguments), said)) == expected, said.read_text()
        return said.read_text()

    limited = _fork(lambda: train(*arguments), said)
    while not step_folders.checkpoints(output / "stage1"):
        time.sleep(0.001)
    with filling.open("wb", buffering=0) as file:  # while it trains
        for block in (2**20, 2**12):
            with contextlib.suppress(OSError):
                while file.write(bytes(block)):
                    pass
    assert _code_of(limited) == 2, said.read_text()
    newest = step_folders.latest_checkpoint(output / "stage1")
    assert newest is not None
    assert "No space left on device" in attempt(2)
    assert step_folders.latest_checkpoint(output / "stage1") == newest
    assert not list(output.rglob("*.tmp-*"))
    filling.unlink()
    attempt(0)
    step_folders.read_manifest(output / "model")


def insist(number: int) -> None:
    """Ask twice to stop, by a signal."""
    interrupts.SAME_REQUEST_SECONDS = 0
    with interrupts.stop_requests() as stop:
        signal.raise_signal(number)
        assert stop.signal == number
        _say("asked once")
        signal.raise_signal(number)


def save_in_a_loop(checkpoint: str, output: str, first: int) -> None:
    """Checkpoints whose tensors are all filled with their step, as fast as they can be written.

    `committed` has the number of the last one that is complete.
    """
    encoder, processor = load_encoder(Path(checkpoint))
    objectives = Objectives({}, Temperature(["a"], learnable=True))
    parameters = [*encoder.parameters(), *objectives.parameters()]
    optimizer = torch.optim.AdamW(parameters)
    folder = Path(output)
    for step in range(first, 10_000):
        for parameter in parameters:
            parameter.data.fill_(step)
            optimizer.state[parameter]["exp_avg"] = torch.full_like(parameter, step)
        state.save_checkpoint(
            step_folders.checkpoint_folder(folder, step),
            encoder,
            processor,
            objectives,
            step_folders.TrainingState(step, 0, step, "f"),
            optimizer=optimizer,
            recipe={},
        )
        write_atomically(folder / "committed", str(step).encode())
        step_folders.remove_older_checkpoints(folder, kept=2)


def warm_up(checkpoint: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe = parse_recipe(RECIPE.format(checkpoint=checkpoint))
        stages.train(recipe, output=Path(folder) / "run", cpu=True)
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads; a fork would lose all but one"


def _fork(work: Callable[[], object], output: Path) -> int:
    """The id of a process that does `work`, prints into `output` and ends with its exit code."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # a shell that starts the tests in the background has them ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = int(work() or 0)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _say(answer: object) -> None:
    sys.stdout.write(f"{answer}\n")
    sys.stdout.flush()


def _code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    torch.set_num_threads(1)
    warm_up(sys.argv[1])
    _say("ready")
    while line := sys.stdin.readline():
        name, arguments, options, output = json.loads(line)
        pid = _fork(partial(globals()[name], *arguments, **options), Path(output))
        _say(pid)
        sys.stdin.readline()  # until then the id stays taken, so that no other process is killed
        _say(_code_of(pid))


if __name__ == "__main__":
    main()
