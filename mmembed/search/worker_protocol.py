"""How a worker process is spoken to: a JSON object a line, in and out.

`processes.py` starts a program that calls `serve`: it reads a specification and then shards, and
answers each with one line. It ends when its standard input does, also in the middle of a shard.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from typing import Any

from mmembed.config.validation import StrictModel
from mmembed.errors import ConfigError, InputError, MMEmbedError

__all__ = ["ProcessSpec", "Reply", "answer", "parse_answer", "serve"]

logger = logging.getLogger(__name__)


class ProcessSpec(StrictModel):
    """What every worker needs to know.

    Attributes:
        num_workers: decode processes of this worker.
        num_threads: of torch; None leaves them as they are.
    """

    model: str
    device: str | None = None
    num_workers: int | None = None
    num_threads: int | None = None


@dataclass(frozen=True)
class Reply:
    """What a worker says: it is ready, it has staged a shard, or a shard cannot be done.

    Attributes:
        space: (fingerprint, dimension) of its vectors; None when it has no model.
        record: for `JobFolder.commit`, with `token`.
        problem: why the shard `shard` could not be done.
    """

    space: tuple[str, int] | None = None
    record: dict[str, Any] | None = None
    token: str = ""
    shard: int | None = None
    problem: str | None = None


def answer(work: Callable[[], Reply]) -> dict[str, Any]:
    """The reply, or why there is none, as JSON; everything but Ctrl-C is caught."""
    try:
        return {"reply": asdict(work())}
    except InputError as error:
        # the arguments of `InputError`
        return {"input": [error.code, error.detail, error.part, error.source, error.index]}
    except MMEmbedError as error:
        return {"refused": str(error)}
    except Exception as error:
        logger.warning("a shard failed", exc_info=True)
        return {"failed": f"{type(error).__name__}: {error}"}


def parse_answer(message: dict[str, Any], shard: int | None = None) -> Reply:
    """What `answer` made, on the other side.

    Raises:
        InputError, ConfigError: what ends the job.
    """
    if "input" in message:
        code, detail, part, source, index = message["input"]
        raise InputError(code, detail, part=part, source=source, index=index)
    if "refused" in message:
        raise ConfigError(message["refused"])
    if "failed" in message:
        return Reply(shard=shard, problem=message["failed"])
    fields = message["reply"]
    return Reply(**{**fields, "space": tuple(fields["space"])})


def serve(load: Callable[[Any], tuple[Reply, Callable[[Any], Reply]]]) -> None:
    """Answer the lines of standard input: a specification first, then shards, for ever.

    Args:
        load: from the specification to the reply that says so, and what encodes a shard.
    """
    # What libraries print belongs on standard error; standard output is for answers.
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    inbox: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=(inbox,), daemon=True).start()
    encoders: list[Callable[[Any], Reply]] = []

    def begin() -> Reply:
        ready, encode = load(json.loads(inbox.get()))
        encoders.append(encode)
        return ready

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    say(answer(begin))
    while encoders:
        shard = json.loads(inbox.get())
        say(answer(lambda shard=shard: encoders[0](shard)))  # type: ignore[misc]


def _listen(inbox: SimpleQueue[str]) -> None:
    for line in sys.stdin:
        inbox.put(line)
    os._exit(0)  # whoever started this process is gone, or wants it to end
