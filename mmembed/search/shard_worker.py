"""What every runner of an encode job runs: one loaded model that encodes shard after shard.

Also the program of a process of its own, `python -m mmembed.search.shard_worker`, which
`processes.py` starts and `worker_protocol` speaks for.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmembed.encoder.embedder import Embedder
from mmembed.errors import ConfigError, InputError
from mmembed.inputs.item_files import FileItem
from mmembed.search.item_sources import Shard, SourceFile, read_shard
from mmembed.search.job_folder import JobSettings, stage_files
from mmembed.search.tables import Table
from mmembed.search.vector_files import encode_items, file_payloads
from mmembed.search.worker_protocol import ProcessSpec, Reply, serve

__all__ = ["ShardWorker", "WorkerSpec"]


class WorkerSpec(ProcessSpec):
    """All that a worker of a job needs to know, on whichever machine it runs.

    Attributes:
        folder: of the job; like the sources, at the same path for all workers.
        batch_tokens: default: that of the device. Nothing is tried out or remembered for a job, so
            that a shard has the same bytes whoever encodes it.
    """

    folder: str
    settings: JobSettings
    files: tuple[SourceFile, ...]
    batch_tokens: int | None = None


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


def _load(fields: Any) -> tuple[Reply, Callable[[Any], Reply]]:
    worker = ShardWorker(WorkerSpec(**fields))  # pydantic's parser refuses odd file names
    return Reply(worker.space), lambda shard: worker.encode(Shard(**shard))


if __name__ == "__main__":
    serve(_load)
