"""What every runner of an encode job runs: one loaded model that encodes shard after shard.

Also the program of a process of its own, `python -m mmembed.search.shard_worker`, which
`processes.py` starts: it reads a `WorkerSpec` and then shards, a JSON object a line, and answers
each with one line. It ends when its standard input does, also in the middle of a shard.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from mmembed.config.validation import StrictModel
from mmembed.encoder.embedder import Embedder
from mmembed.errors import ConfigError, InputError, MMEmbedError
from mmembed.inputs.item_files import FileItem
from mmembed.search.item_sources import Shard, SourceFile, read_shard
from mmembed.search.job_folder import JobSettings, stage_files
from mmembed.search.tables import Table
from mmembed.search.vector_files import encode_items, file_payloads

__all__ = ["Reply", "ShardWorker", "WorkerSpec", "answer", "parse_answer"]

logger = logging.getLogger(__name__)


class WorkerSpec(StrictModel):
    """All that a worker needs to know, on whichever machine it runs.

    Attributes:
        folder: of the job; like the sources, at the same path for all workers.
        num_workers: decode processes of this worker.
        batch_tokens: default: that of the device. Nothing is tried out or remembered for a job, so
            that a shard has the same bytes whoever encodes it.
        num_threads: of torch; None leaves them as they are.
    """

    model: str
    folder: str
    settings: JobSettings
    files: tuple[SourceFile, ...]
    device: str | None = None
    num_workers: int | None = None
    batch_tokens: int | None = None
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


class ShardWorker:
    """Encodes shards of one job with one model."""

    def __init__(self, spec: WorkerSpec, embedder: Embedder | None = None) -> None:
        if spec.num_threads is not None:
            import torch

            torch.set_num_threads(spec.num_threads)
        self.spec = spec
        self.embedder = embedder or Embedder.from_pretrained(
            spec.model, device=spec.device, num_workers=spec.num_workers
        )
        native, chosen = self.embedder.embedding_dimension, spec.settings.truncate_dim
        if chosen is not None and chosen > native:
            raise ConfigError(f"truncate_dim is {chosen}; this model has {native} dimensions")
        self.space = (self.embedder.fingerprint, chosen or native)
        self.batch_tokens = spec.batch_tokens or self.embedder.batch_tokens().default
        self._token = uuid.uuid4().hex[:12]
        self._tables: dict[int, Table] = {}

    def encode(self, shard: Shard) -> Reply:
        """Encode a shard and stage its files.

        Raises:
            InputError: under `on_error="raise"`; names the row.
            StoreError: the source has changed.
        """
        settings = self.spec.settings
        entries = read_shard(self.spec.files, shard, self._tables)
        try:
            encoded = encode_items(
                self.embedder,
                entries,
                role=settings.role,
                instruction=settings.instruction,
                truncate_dim=settings.truncate_dim,
                precision=settings.precision,
                on_error=settings.on_error,
                batch_tokens=self.batch_tokens,
                show_progress_bar=False,
            )
        except InputError as error:
            raise _named(error, entries, shard) from None
        name = f"{shard.index:06d}.{settings.format}"
        files = file_payloads(name, encoded, fingerprint=self.space[0], first_item=shard.first)
        record = {
            "shard": shard.index,
            "first": shard.first,
            "rows": shard.rows,
            "written": len(encoded.kept),
            "failed": len(encoded.errors),
            "files": stage_files(Path(self.spec.folder), self._token, files),
        }
        return Reply(self.space, record, self._token, shard.index)


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


def _named(error: InputError, entries: list[FileItem], shard: Shard) -> InputError:
    """The error with the row's number in the whole job and its id."""
    place = error.index[0] if isinstance(error.index, tuple) else int(error.index or 0)
    return InputError(
        error.code,
        f"{error.detail} (id {entries[place].id!r}; --on-error null or skip goes on past such "
        "items)",
        part=error.part,
        source=error.source,
        index=shard.first + place,
    )


def _serve() -> None:
    # What libraries print belongs on standard error; standard output is for answers.
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    inbox: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=(inbox,), daemon=True).start()
    spec = WorkerSpec(**json.loads(inbox.get()))  # pydantic's parser refuses odd file names
    worker: list[ShardWorker] = []

    def load() -> Reply:
        worker.append(ShardWorker(spec))
        return Reply(worker[0].space)

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    say(answer(load))
    while worker:
        shard = Shard(**json.loads(inbox.get()))
        say(answer(lambda shard=shard: worker[0].encode(shard)))  # type: ignore[misc]


def _listen(inbox: SimpleQueue[str]) -> None:
    for line in sys.stdin:
        inbox.put(line)
    os._exit(0)  # whoever started this process is gone, or wants it to end


if __name__ == "__main__":
    _serve()
