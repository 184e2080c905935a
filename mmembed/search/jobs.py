"""Encodes a data set of any size into a folder of shards; stopped at any moment, it goes on.

item_sources.plan_sources -> shards -> shard_worker: here, in processes, or on Ray
                          -> job_folder: every row exactly once, in order

encode_dataset("items.jsonl", "path/or/hub-id", "vectors/")
for shard in read_vectors("vectors/"):
    database.insert(shard.ids, shard.vectors)
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from mmembed.config.validation import StrictModel
from mmembed.encoder.embedder import Embedder
from mmembed.encoder.options import check_encode
from mmembed.errors import ConfigError, InputError
from mmembed.search.item_sources import Shard, plan_sources, read_shard
from mmembed.search.job_folder import JobFolder, JobSettings, read_vectors
from mmembed.search.shard_worker import ShardWorker, WorkerSpec
from mmembed.search.vector_files import encode_items, import_pyarrow
from mmembed.search.worker_protocol import Reply
from mmembed.store.durable import lock_folder

__all__ = [
    "Forecast",
    "JobSettings",
    "JobSummary",
    "Workers",
    "encode_dataset",
    "forecast",
    "read_vectors",
]

_SAMPLE_SHARDS = 8
_BYTES = {"float32": 4.0, "int8": 1.0, "uint8": 1.0, "binary": 0.125, "ubinary": 0.125}


class Workers(StrictModel):
    """Where and how the rows are computed; may differ from run to run of one job.

    Attributes:
        runner: `ray` needs the extra `ray`, and the folder at one path on all machines.
        processes: default: one for each GPU, or one on a CPU; on Ray one for each CPU.
        ray_address: of a running cluster, or `auto`; None starts one on this machine.
        num_workers: decode processes of each process.
    """

    runner: Literal["local", "ray"] = "local"
    processes: int | None = Field(default=None, ge=1)
    ray_address: str | None = None
    device: str | None = None
    num_workers: int | None = Field(default=None, ge=1)
    batch_tokens: int | None = Field(default=None, ge=1)


@dataclass
class JobSummary:
    """What one run did.

    Attributes:
        encoded: rows of this run; those of earlier runs are in `finished` too.
        failed: items and files that have no vector, of all runs; see errors.jsonl.
        given_up: shards that could not be done, and why; the next run tries them again.
        ignored: columns of tables that were not read.
    """

    rows: int
    finished: int = 0
    encoded: int = 0
    failed: int = 0
    seconds: float = 0.0
    given_up: list[tuple[Shard, str]] = field(default_factory=list)
    ignored: tuple[str, ...] = ()

    def __str__(self) -> str:
        rate = f", {self.encoded / self.seconds:,.1f} rows/s" if self.encoded else ""
        return (
            f"{self.finished:,} of {self.rows:,} rows, {self.encoded:,} of them in this run"
            f"{rate}; {self.failed:,} failed"
        )


def encode_dataset(
    sources: Path | str | Sequence[Path | str],
    model: str | Path | Embedder,
    out: Path | str,
    *,
    settings: JobSettings | None = None,
    workers: Workers | None = None,
    show_progress_bar: bool | None = None,
) -> JobSummary:
    """Encode all rows of the sources; called again, go on where an earlier call stopped.

    Args:
        sources: JSON-lines files, `.parquet` and `.arrow` tables, folders that
            `datasets.Dataset.save_to_disk` wrote, folders of media and texts.
        model: a loaded one works in this process only.
        out: a new folder, or that of the same job; see `job_folder`.

    Raises:
        ConfigError: a source or an option cannot be used.
        InputError: an item is bad, under `on_error="raise"`; finished shards are kept.
        StoreError: the folder belongs to another job, is damaged or in use.
        SpaceMismatchError: the folder was begun with another model.
    """
    settings, workers = settings or JobSettings(), workers or Workers()
    paths = _paths(sources)
    _check(settings, workers, model)
    folder = Path(out).resolve()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; a job needs a folder of its own")
    JobFolder(folder)  # refuses a folder of other things before anything is written into it
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with lock_folder(folder, wait=False):
        job = JobFolder(folder)
        if job.plan is None:
            plan = plan_sources(paths, shard_rows=settings.shard_rows, folder=folder)
        else:
            job.check_settings(settings)
            plan = job.plan
            plan.check_sources(paths, skip=folder)
        if plan.unusable and settings.on_error == "raise":
            first = plan.unusable[0]
            raise InputError(
                first.code,
                f"{first.id}: {first.detail} ({len(plan.unusable)} such files; --on-error null or "
                "skip goes on past them)",
                part=first.part,
            )
        shards = [shard for shard in plan.shards if shard.index not in job.committed]
        summary = JobSummary(rows=plan.num_rows, ignored=plan.ignored)
        summary.finished = plan.num_rows - sum(shard.rows for shard in shards)
        spec = WorkerSpec(
            model=_model_name(model),
            folder=str(folder),
            settings=settings,
            files=plan.files,
            device=workers.device,
            num_workers=workers.num_workers,
            batch_tokens=workers.batch_tokens,
        )
        with contextlib.ExitStack() as stack:
            advance = stack.enter_context(_progress(show_progress_bar, summary, shards))
            job.prepare()
            stack.callback(lambda: job.write_errors() if job.plan else None)
            replies = stack.enter_context(
                contextlib.closing(_replies(spec, shards, workers, model))
            )
            waiting = {shard.index: shard for shard in shards}
            reasons: dict[int, str] = {}
            for reply in replies:
                if reply.space is not None and reply.space != job.begun_with:
                    job.begin(settings, plan, reply.space)
                if reply.record is not None and reply.shard in waiting:
                    job.commit(reply.record, reply.token)
                    rows = waiting.pop(reply.shard).rows
                    summary.encoded += rows
                    summary.finished += rows
                    advance(rows)
                elif reply.problem is not None and reply.shard is not None:
                    reasons[reply.shard] = reply.problem
        unknown = "its worker ended"
        summary.given_up = [(s, reasons.get(n, unknown)) for n, s in sorted(waiting.items())]
        summary.failed = job.failed
    summary.seconds = time.monotonic() - started
    return summary


def _replies(
    spec: WorkerSpec, shards: Sequence[Shard], workers: Workers, model: str | Path | Embedder
) -> Generator[Reply]:
    if workers.runner == "ray":
        from mmembed.search.ray_runner import encode_on_ray

        return encode_on_ray(spec, shards, processes=workers.processes, address=workers.ray_address)
    if isinstance(model, Embedder):
        return _encode_here(spec, shards, model)
    from mmembed.search.processes import default_processes, encode_in_processes

    processes = workers.processes or default_processes(workers.device)
    if processes == 1:
        return _encode_here(spec, shards, None)
    return encode_in_processes(spec, shards, processes)


def _encode_here(
    spec: WorkerSpec, shards: Sequence[Shard], embedder: Embedder | None
) -> Generator[Reply]:
    worker = ShardWorker(spec, embedder)
    try:
        yield Reply(worker.space)
        for shard in shards:
            yield worker.encode(shard)
    finally:
        if embedder is None:
            worker.embedder.close()


@dataclass(frozen=True)
class Forecast:
    """What a job will take, from a sample of its rows on one process of this machine."""

    rows: int
    shards: int
    sampled: int
    seconds_per_row: float
    bytes_per_row: float

    def __str__(self) -> str:
        hours, size = self.rows * self.seconds_per_row / 3600, self.rows * self.bytes_per_row
        return (
            f"{self.rows:,} rows in {self.shards:,} shard{'s' * (self.shards != 1)}\n"
            f"{self.seconds_per_row * 1000:,.2f} ms a row ({self.sampled} rows sampled), "
            f"{hours:,.2f} hours in one process; divide by the processes or GPUs\n"
            f"{self.bytes_per_row:,.0f} bytes a row, {size / 1e9:,.3f} GB of vectors"
        )


def forecast(
    sources: Path | str | Sequence[Path | str],
    model: str | Path | Embedder,
    *,
    settings: JobSettings | None = None,
    workers: Workers | None = None,
    sample: int = 64,
) -> Forecast:
    """Plan a job and encode a few rows from all over it; writes nothing.

    Raises:
        ConfigError: a source or an option cannot be used.
    """
    settings, workers = settings or JobSettings(), workers or Workers()
    _check(settings, workers, model)
    with tempfile.TemporaryDirectory(prefix="mmembed-plan-") as folder:
        plan = plan_sources(_paths(sources), shard_rows=settings.shard_rows, folder=Path(folder))
        shards = plan.shards
        count = min(_SAMPLE_SHARDS, len(shards), sample)
        chosen = [shards[place * len(shards) // count] for place in range(count)]
        entries = []
        for shard in chosen:
            part = Shard(**{**vars(shard), "rows": min(shard.rows, -(-sample // count))})
            entries += read_shard(plan.files, part)
        embedder = model if isinstance(model, Embedder) else None
        spec = WorkerSpec(
            model=_model_name(model),
            folder=folder,
            settings=settings,
            files=plan.files,
            device=workers.device,
            num_workers=workers.num_workers,
        )
        worker = ShardWorker(spec, embedder)
        for _ in range(2):  # the first one warms up
            started = time.perf_counter()
            encode_items(
                worker.embedder,
                entries,
                role=settings.role,
                instruction=settings.instruction,
                on_error="skip",
                batch_tokens=worker.batch_tokens,
                show_progress_bar=False,
            )
            seconds = time.perf_counter() - started
        dimension = worker.space[1]
        if embedder is None:
            worker.embedder.close()
    return Forecast(
        rows=plan.num_rows,
        shards=len(shards),
        sampled=len(entries),
        seconds_per_row=seconds / len(entries),
        bytes_per_row=dimension * _BYTES[settings.precision],
    )


def _model_name(model: str | Path | Embedder) -> str:
    """A hub id as it is, a folder in full: workers may run elsewhere."""
    named = model.folder if isinstance(model, Embedder) else model
    return str(Path(named).resolve()) if named is not None and Path(named).is_dir() else str(named)


def _paths(sources: Path | str | Sequence[Path | str]) -> list[Path]:
    listed = [sources] if isinstance(sources, Path | str) else sources
    return [Path(source) for source in listed]


def _check(settings: JobSettings, workers: Workers, model: str | Path | Embedder) -> None:
    check_encode(
        role=settings.role,
        on_error=settings.on_error,
        precision=settings.precision,
        normalize=None,
        on_model=True,
    )
    if settings.format == "parquet":
        import_pyarrow()
    if workers.ray_address is not None and workers.runner != "ray":
        raise ConfigError("ray_address goes with the runner ray; give --runner ray")
    if not isinstance(model, Embedder):
        return
    if workers.runner == "ray" or (workers.processes or 1) > 1:
        raise ConfigError("a loaded model works in this process only; give its folder instead")


@contextlib.contextmanager
def _progress(
    show: bool | None, summary: JobSummary, shards: Sequence[Shard]
) -> Iterator[Callable[[int], None]]:
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda count: None
        return
    from mmembed.progress import progress_bar

    label = f"encoding ({summary.finished:,} done before)" if summary.finished else "encoding"
    with progress_bar(label, sum(shard.rows for shard in shards), unit="rows") as advance:
        yield advance
